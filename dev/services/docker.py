"""A Docker engine with the images that tests run kernels in (see _image.py).

Where none is given, it is one of our own: Debian's dockerd with all its files, its socket and its bridge apart from
any other on the machine. It leaves the firewall alone: the ports that it publishes on 127.0.0.1 pass
through docker-proxy, and containers reach this machine but no other.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from services import _image, _machine
from services._engine import DEFAULT, Engine

HINT = "Start Docker, or point DOCKER_HOST to an engine, and let `python3 dev images` build the images there."
NEEDED_BY = frozenset({"docker"})
_PACKAGES = ["docker.io", "tini", "iproute2", "openssl"]
_LEFT = {"dockerd", "docker-proxy", "containerd", "containerd-shim", "containerd-shim-runc-v2"}


def find() -> bool:
    """Return whether the engine of this environment answers and has the images."""
    engine = Engine.given()
    return engine.answers() and _image.are_there(engine)


def running() -> bool:
    """Return whether an engine of our own is there."""
    return _daemon().pid is not None


def up() -> dict[str, str]:
    """Give the engine of this environment the images, or start one of our own."""
    engine = Engine.given()
    if engine.answers():
        _image.provide(engine)
        return {} if engine.host == DEFAULT else {"DOCKER_HOST": engine.host}
    return {"DOCKER_HOST": start()["DOCKER_HOST"]}


def down() -> None:
    """End our engine with its containers; what it stored stays, so that it is there quickly the next time."""
    folder = _machine.folder("docker")
    with _machine.lock(folder):
        _stop(folder)


def provide_images() -> None:
    """Build the images in the engine of this environment."""
    _image.provide(Engine.given())


def start() -> dict[str, str]:
    """Start our engine, or find it running; return all that leads to it."""
    folder = _machine.folder("docker")
    with _machine.lock(folder):
        engine = Engine(f"unix://{folder}/docker.sock")
        running = _daemon().pid is not None
        try:
            if not running:
                _machine.install(*_PACKAGES)
                _start(folder, engine)
            _image.provide(engine)
            engine.post("/images/prune")  # those of older recipes
        except BaseException:
            if not running:
                _stop(folder)
            raise
    port = (folder / "tls.port").read_text()
    return {
        "DOCKER_HOST": engine.host,
        "KERNEL_PROVISIONERS_DOCKER_TLS_HOST": f"tcp://127.0.0.1:{port}",
        "KERNEL_PROVISIONERS_DOCKER_TLS_CERT_PATH": str(folder / "client"),
    }


def _daemon() -> _machine.Daemon:
    return _machine.Daemon(_machine.folder("docker"), "dockerd")


def _start(folder: Path, engine: Engine) -> None:
    _end_leftovers(folder)
    certificates = _certificates(folder)
    _make_bridge(_bridge(folder))
    command = ["dockerd", f"--host={engine.host}", f"--pidfile={folder}/docker.pid"]
    command += [
        f"--data-root={folder}/data",
        f"--exec-root={folder}/exec",
        f"--bridge={_bridge(folder)}",
    ]
    command += ["--iptables=false", "--ip6tables=false", "--ip-masq=false"]
    command += [f"--host=tcp://127.0.0.1:{_machine.port(folder / 'tls.port')}", "--tlsverify"]
    command += [f"--tlscacert={certificates}/ca.pem", f"--tlscert={certificates}/server.pem"]
    command += [f"--tlskey={certificates}/server.key"]
    _daemon().start(command, engine.answers)
    # What a run left that did not come to its end.
    engine.post("/containers/prune")
    engine.post("/volumes/prune")


def _stop(folder: Path) -> None:
    _daemon().stop()
    _end_leftovers(folder)
    subprocess.run(
        ["ip", "link", "delete", _bridge(folder)], check=False, stderr=subprocess.DEVNULL
    )


def _end_leftovers(folder: Path) -> None:
    _machine.end_leftovers(folder, _LEFT)
    _machine.unmount_below(folder)
    _machine.remove(folder / "exec")
    (folder / "docker.pid").unlink(missing_ok=True)


def _bridge(folder: Path) -> str:
    """Return a name that no engine of another folder has, also not of one inside a chroot."""
    return f"kp-{folder.stat().st_ino:x}"[:15]


def _make_bridge(name: str) -> None:
    """Make a bridge with the first network of a range that nothing on this machine uses."""
    listing = ["ip", "-oneline", "address"]
    listed = subprocess.run(listing, check=True, capture_output=True, text=True).stdout
    if f" {name} " in listed:
        return
    free = next(n for n in range(1, 255) if f" 10.213.{n}." not in listed)
    _machine.run("ip", "link", "add", name, "type", "bridge")
    _machine.run("ip", "address", "add", f"10.213.{free}.1/24", "dev", name)
    _machine.run("ip", "link", "set", name, "up")


def _certificates(folder: Path) -> Path:
    """Make an authority, and certificates of it for the server and, in `client`, for clients."""
    made, client = folder / "certificates", folder / "client"
    if (client / "key.pem").exists():
        return made
    for path in made, client:
        _machine.remove(path)
        path.mkdir(mode=0o700)
    key = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"]
    key += ["-nodes", "-days", "3650"]
    authority = ["-CA", f"{made}/ca.pem", "-CAkey", f"{made}/ca.key"]
    leaf = ["-addext", "basicConstraints=critical,CA:FALSE"]
    for name, subject, extensions in (
        (made / "ca", "authority", ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]),
        (
            made / "server",
            "127.0.0.1",
            [
                *authority,
                *leaf,
                "-addext",
                "extendedKeyUsage=serverAuth",
                "-addext",
                "subjectAltName=IP:127.0.0.1,DNS:localhost",
            ],
        ),
        (client / "cert", "client", [*authority, *leaf, "-addext", "extendedKeyUsage=clientAuth"]),
    ):
        files = ["-keyout", f"{name}.key", "-out", f"{name}.pem"]
        _machine.run(*key, "-subj", f"/CN=kernel-provisioners {subject}", *extensions, *files)
    (client / "ca.pem").write_bytes((made / "ca.pem").read_bytes())
    (client / "cert.key").rename(client / "key.pem")  # what Docker's clients call it
    return made
