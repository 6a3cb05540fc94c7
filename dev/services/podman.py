"""Podman behind its Docker-compatible socket, with the images that tests run kernels in (see _image.py).

KERNEL_PROVISIONERS_PODMAN leads to it and means what DOCKER_HOST does. Where none is given, it is Debian's podman
with all its files apart from any other on the machine.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from services import _image, _machine
from services._engine import Engine

HINT = (
    "Run `podman system service --time=0 unix://PATH` with KERNEL_PROVISIONERS_PODMAN=unix://PATH and DOCKER_HOST "
    "set to the same, and let `python3 dev images` build the images there."
)
NEEDED_BY = frozenset({"docker"})
_NAME = "KERNEL_PROVISIONERS_PODMAN"
_PACKAGES = ["podman", "runc", "netavark", "aardvark-dns", "catatonit", "iptables"]
_LEFT = {"podman", "conmon"}
# Those of this machine may do without TLS, as Docker has it; nothing else is asked for what is missing here.
_REGISTRIES = """\
[[registry]]
prefix = "127.0.0.1"
location = "127.0.0.1"
insecure = true

[[registry]]
prefix = "docker.io"
location = "docker.io"
blocked = true
"""


def find() -> bool:
    """Return whether the engine answers and has the images."""
    engine = Engine(os.environ.get(_NAME, ""))
    return engine.answers() and _image.are_there(engine)


def running() -> bool:
    """Return whether a service of our own is there."""
    return _daemon().pid is not None


def up() -> dict[str, str]:
    """Give the engine of this environment the images, or start a service of our own."""
    given = Engine(os.environ.get(_NAME, ""))
    if given.answers():
        _image.provide(given)
        return {_NAME: given.host}
    folder = _machine.folder("podman")
    engine = Engine(f"unix://{folder}/podman.sock")
    with _machine.lock(folder):
        before = running()
        try:
            if not before:
                _machine.install(*_PACKAGES)
                _start(folder, engine)
            _image.provide(engine)
            engine.post("/images/prune")  # those of older recipes
        except BaseException:
            if not before:
                _stop(folder, engine)
            raise
    return {_NAME: engine.host}


def down() -> None:
    """End our service and its containers; the images stay, so that they are there quickly the next time."""
    folder = _machine.folder("podman")
    with _machine.lock(folder):
        _stop(folder, Engine(f"unix://{folder}/podman.sock"))


def _daemon() -> _machine.Daemon:
    return _machine.Daemon(_machine.folder("podman"), "podman")


def _start(folder: Path, engine: Engine) -> None:
    _end_leftovers(folder)
    (folder / "containers.conf").write_text(_settings())
    command = ["podman", f"--root={folder}/data", f"--runroot={folder}/run"]
    command += [f"--tmpdir={folder}/tmp", f"--network-config-dir={folder}/networks"]
    command += ["system", "service", "--time=0", engine.host]
    (folder / "registries.conf").write_text(_REGISTRIES)
    environ = os.environ | {
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "CONTAINERS_REGISTRIES_CONF": str(folder / "registries.conf"),
    }
    _daemon().start(command, engine.answers, env=environ)
    engine.post("/containers/prune")
    engine.post("/volumes/prune")


def _settings() -> str:
    """Return a configuration for a machine that may have neither systemd nor all capabilities."""
    import resource  # not on Windows, where nothing is set up, but `find` is called

    # More than this machine's own limits would need CAP_SYS_RESOURCE.
    files, processes = (
        min(limit, resource.getrlimit(kind)[1] % (1 << 63))  # -1 is none
        for kind, limit in (
            (resource.RLIMIT_NOFILE, 1 << 20),
            # Podman takes this limit for itself.
            (resource.RLIMIT_NPROC, int(Path("/proc/sys/kernel/pid_max").read_text())),
        )
    )
    limits = [f"nofile={files}:{files}", f"nproc={processes}:{processes}"]
    return f"""\
[containers]
default_ulimits = {json.dumps(limits)}
log_driver = "k8s-file"

[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"  # crun refuses a mixture of the two versions of control groups

[network]
network_backend = "netavark"
"""


def _stop(folder: Path, engine: Engine) -> None:
    # The service does not end its containers, and they hold ports and rules of the firewall.
    if engine.answers():
        for container in engine.get("/containers/json", all="1"):
            engine.remove_container(container["Id"])
    _daemon().stop()
    _end_leftovers(folder)


def _end_leftovers(folder: Path) -> None:
    _machine.end_leftovers(folder, _LEFT)
    for name in "run", "tmp":
        _machine.remove(folder / name)
    _machine.unmount_below(folder)
    (folder / "podman.sock").unlink(missing_ok=True)
