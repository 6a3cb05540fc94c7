"""Builders: from options and a launch request to what is asked of the engine. Values in, values out.

The descriptions are the JSON bodies of the Docker Engine API, version 1.40 and later.
"""

from __future__ import annotations

import io
import json
import posixpath
import re
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kernel_provisioner_core import ConfigurationError
from kernel_provisioner_core.connection import PORT_NAMES
from kernel_provisioner_core.remote import LaunchRequest

__all__ = [
    "CONNECTION_DIR",
    "CONNECTION_FILE",
    "CONTAINER_PORTS",
    "LABEL",
    "ContainerOptions",
    "FoundKernelspec",
    "Mount",
    "connection_archive",
    "container_body",
    "container_name",
    "find_kernelspecs",
    "home_of",
    "kernelspec_dirs",
    "memory_bytes",
    "owner_of",
    "parse_mounts",
    "path_on_host",
]

LABEL = "kernel-provisioner.backend=docker"
"""What all our containers have; with a value, since Podman finds no events by a label's name alone."""

CONNECTION_DIR = "/.kernel-provisioner"
"""A directory of our own: it belongs to the container's user, with mode 0700."""

CONNECTION_FILE = f"{CONNECTION_DIR}/connection.json"

CONTAINER_PORTS = dict(zip(PORT_NAMES, range(53170, 53175), strict=True))
"""What the kernel binds. A container has a network namespace of its own, so nobody else can have them."""


@dataclass(frozen=True)
class Mount:
    """One mount of a container.

    Args:
        type: `bind`, `volume` or `tmpfs`.
        target: Where it is in the container; an absolute path.
        source: The path on the engine's host, or the volume's name; empty for a tmpfs.
        read_only: Whether the kernel must not write there.
        size: The size of a tmpfs in bytes; None for the engine's default.
    """

    type: str
    target: str
    source: str = ""
    read_only: bool = False
    size: int | None = None


@dataclass(frozen=True)
class ContainerOptions:
    """The options of a provisioner that describe its container; see the traits for their meaning."""

    image: str
    user: str = ""
    working_dir: str = ""
    mounts: tuple[Mount, ...] = ()
    resources: Mapping[str, Any] = field(default_factory=dict)
    network: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    init: bool = True
    cap_drop: tuple[str, ...] = ()
    read_only: bool = False
    security_opt: tuple[str, ...] = ()
    extra_hosts: Mapping[str, str] = field(default_factory=dict)
    extra_create: Mapping[str, Any] = field(default_factory=dict)


def container_body(
    request: LaunchRequest,
    options: ContainerOptions,
    published: Mapping[str, int] | None,
    publish_ip: str,
) -> dict[str, Any]:
    """Return the body of `POST /containers/create`.

    Args:
        request: What is to be run.
        options: How the container is to be.
        published: The host port for each of PORT_NAMES; None where the container's own address is dialled.
        publish_ip: The host's address that the ports are published on.

    Raises:
        ConfigurationError: A mount would hide the connection file, or a resource is unknown or malformed.
    """
    env = dict(request.env)
    if options.init:
        # the engine's init passes signals on to the whole process group of the kernel then
        env["TINI_KILL_PROCESS_GROUP"] = "1"
    label, _, backend = LABEL.partition("=")
    ports = {f"{port}/tcp": name for name, port in CONTAINER_PORTS.items()}
    host: dict[str, Any] = {
        "Init": options.init,
        "CapDrop": list(options.cap_drop),
        "SecurityOpt": list(options.security_opt),
        "ReadonlyRootfs": options.read_only,
        "ExtraHosts": [f"{name}:{address}" for name, address in options.extra_hosts.items()],
        "Mounts": [_mount_body(mount) for mount in options.mounts],
        "RestartPolicy": {"Name": "no"},
        **_resource_body(options.resources),
    }
    if options.network:
        host["NetworkMode"] = options.network
    if published is not None:
        host["PortBindings"] = {
            port: [{"HostIp": publish_ip, "HostPort": str(published[name])}]
            for port, name in ports.items()
        }
    body: dict[str, Any] = {
        "Image": options.image,
        "Entrypoint": [
            ""
        ],  # the kernelspec's argv runs as it is; one empty word is the API's "none"
        "Cmd": list(request.argv),
        "Env": [f"{name}={value}" for name, value in sorted(env.items())],
        "User": options.user,
        "WorkingDir": options.working_dir,
        "Labels": {**options.labels, **request.labels, label: backend},
        "ExposedPorts": {port: {} for port in ports},
        "HostConfig": host,
    }
    if options.read_only:
        body["Volumes"] = {CONNECTION_DIR: {}}  # anonymous, and removed with the container
    merged = _merge(body, options.extra_create)
    _refuse_hidden_connection_file(merged)
    return merged


def container_name(kernel_id: str) -> str:
    """Return a container's name: readable, and within the engine's alphabet."""
    slug = re.sub("[^A-Za-z0-9_.-]", "-", kernel_id)[:60]
    return f"kernel-{slug}"


def connection_archive(text: str, uid: int, gid: int, *, directory: str) -> bytes:
    """Return a tar archive with the connection file.

    Args:
        text: What the file holds.
        uid: Whose it is.
        gid: Whose group's.
        directory: The directory's path within the archive; `.` if it exists and only its owner and mode are set.
    """
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        folder = tarfile.TarInfo(directory)
        folder.type, folder.mode, folder.uid, folder.gid = tarfile.DIRTYPE, 0o700, uid, gid
        archive.addfile(folder)
        data = text.encode()
        file = tarfile.TarInfo(posixpath.join(directory, posixpath.basename(CONNECTION_FILE)))
        file.size, file.mode, file.uid, file.gid = len(data), 0o600, uid, gid
        archive.addfile(file, io.BytesIO(data))
    return buffer.getvalue()


def owner_of(user: str, passwd: str, group: str) -> tuple[int, int]:
    """Return uid and gid of a container's user.

    Args:
        user: As `USER` of an image has it: empty for root, `name`, `uid`, `name:group` or `uid:gid`.
        passwd: The image's /etc/passwd; may be empty.
        group: The image's /etc/group; may be empty.

    Raises:
        ConfigurationError: The image does not know the name.
    """
    name, _, group_name = user.partition(":")
    entries = [line.split(":") for line in passwd.splitlines() if line.count(":") >= 3]
    by_name = {entry[0]: (int(entry[2]), int(entry[3])) for entry in entries}
    by_uid = {str(uid): (uid, gid) for uid, gid in by_name.values()}
    if not name:
        uid, gid = 0, 0
    elif name in by_name:
        uid, gid = by_name[name]
    elif name.isdecimal():
        uid, gid = by_uid.get(name, (int(name), 0))
    else:
        raise ConfigurationError(
            f"The image has no user {name!r} in its /etc/passwd.",
            hint="Give `user` as a number, or as a name that the image has.",
        )
    if group_name.isdecimal():
        gid = int(group_name)
    elif group_name:
        groups = {
            line.split(":")[0]: int(line.split(":")[2])
            for line in group.splitlines()
            if ":" in line
        }
        if group_name not in groups:
            raise ConfigurationError(
                f"The image has no group {group_name!r} in its /etc/group.",
                hint="Give the group in `user` as a number, or as a name that the image has.",
            )
        gid = groups[group_name]
    return uid, gid


def parse_mounts(mounts: Sequence[Any], cwd: str) -> tuple[Mount, ...]:
    """Return the mounts that the option `mounts` describes.

    Args:
        mounts: Each one `cwd` (the notebook's directory, under its own path), `SOURCE:TARGET[:ro]`, or an object with
            `type`, `source`, `target`, `read_only`, `size`.
        cwd: The notebook's directory on the server; replaces `{cwd}`.

    Raises:
        ConfigurationError: One is malformed; it is quoted.
    """
    return tuple(_parse_mount(mount, cwd) for mount in mounts)


def path_on_host(path: str, mounts: Sequence[Mount], working_dir: str) -> str | None:
    """Return where a path of the container is on the host; None where no bind mount leads there.

    Args:
        path: As the kernel sees it; relative ones are seen from `working_dir`.
        mounts: The container's mounts.
        working_dir: The kernel's working directory in the container; may be unknown (empty).
    """
    if not path.startswith("/") and not working_dir:
        return None
    inside = posixpath.normpath(posixpath.join(working_dir, path))
    for mount in sorted(mounts, key=lambda mount: len(mount.target), reverse=True):
        target = posixpath.normpath(mount.target)
        if inside != target and not inside.startswith(target.rstrip("/") + "/"):
            continue
        if mount.type != "bind":
            return None
        source = Path(mount.source).resolve()
        found = (source / posixpath.relpath(inside, target)).resolve()
        # a link out of the mount leads elsewhere in the container
        inside_source = found == source or source in found.parents
        return str(found) if inside_source and found.exists() else None
    return None


FoundKernelspec = tuple[str, dict[str, Any], dict[str, bytes]]
"""A kernelspec of an image: its name, what kernel.json has, and its logos by their file names."""


def kernelspec_dirs(env: Mapping[str, str], home: str) -> list[str]:
    """Return where Jupyter in a container would look for kernelspecs, the first first.

    Args:
        env: The image's environment.
        home: The home directory of its user; may be unknown (empty).
    """
    data = [path for path in env.get("JUPYTER_PATH", "").split(":") if path]
    if home:
        data.append(env.get("JUPYTER_DATA_DIR") or f"{home}/.local/share/jupyter")
    prefixes = [env.get(name, "") for name in ("VIRTUAL_ENV", "CONDA_PREFIX", "CONDA_DIR")]
    prefixes += [
        path.removesuffix("/bin")
        for path in env.get("PATH", "").split(":")
        if path.endswith("/bin")
    ]
    prefixes += ["/opt/conda", "/usr/local", "/usr"]
    data += [f"{prefix}/share/jupyter" for prefix in prefixes if prefix]
    return list(dict.fromkeys(f"{path}/kernels" for path in data))


def find_kernelspecs(files: Mapping[str, bytes]) -> list[FoundKernelspec]:
    """Return the kernelspecs among the files of a container, by their paths; malformed ones are passed over.

    Of several with one name the first counts, as in Jupyter. `{resource_dir}` in argv is filled in.
    """
    found: dict[str, FoundKernelspec] = {}
    for path, content in files.items():
        folder, name = posixpath.split(path)
        if name != "kernel.json":
            continue
        try:
            spec = json.loads(content)
        except ValueError:
            continue
        if not isinstance(spec, dict) or not isinstance(spec.get("argv"), list):
            continue
        spec["argv"] = [str(word).replace("{resource_dir}", folder) for word in spec["argv"]]
        logos = {
            posixpath.basename(file): data
            for file, data in files.items()
            if posixpath.dirname(file) == folder and posixpath.basename(file).startswith("logo-")
        }
        kernel = posixpath.basename(folder)
        found.setdefault(kernel, (kernel, spec, logos))
    return list(found.values())


def home_of(user: str, passwd: str) -> str:
    """Return the home directory of a container's user, as its /etc/passwd has it; empty if that is unknown."""
    name = user.partition(":")[0] or "0"
    for line in passwd.splitlines():
        entry = line.split(":")
        if len(entry) >= 6 and name in (entry[0], entry[2]):
            return entry[5]
    return ""


def memory_bytes(value: Any) -> int:
    """Return an amount of memory in bytes, from a number or text such as `512m`, `2g` or `2Gi` (all binary)."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)i?b?", str(value).strip().lower())
    if not found:
        raise ConfigurationError(
            f"resources.memory is {value!r}.", hint="Give bytes, or text such as 512m or 2g."
        )
    return int(float(found[1]) * 1024 ** " kmgt".index(found[2] or " "))


def _parse_mount(mount: Any, cwd: str) -> Mount:
    if mount == "cwd":
        mount = "{cwd}:{cwd}"
    if isinstance(mount, str):
        source, _, rest = mount.partition(":")
        target, _, mode = rest.partition(":")
        if not target or mode not in ("", "ro", "rw"):
            raise _malformed(mount, 'SOURCE:TARGET, SOURCE:TARGET:ro, or the word "cwd"')
        kind = "bind" if source.startswith(("/", "~", ".", "{cwd}")) else "volume"
        mount = {"type": kind, "source": source, "target": target, "read_only": mode == "ro"}
    if not isinstance(mount, Mapping):
        raise _malformed(mount, "text or an object")
    unknown = mount.keys() - {"type", "source", "target", "read_only", "size"}
    kind = mount.get("type", "bind")
    if unknown or kind not in ("bind", "volume", "tmpfs"):
        raise _malformed(
            mount, "an object with type (bind, volume, tmpfs), source, target, read_only, size"
        )
    if "{cwd}" in f"{mount.get('source', '')}{mount.get('target', '')}" and not cwd:
        raise ConfigurationError(
            f"The mount {mount!r} needs the notebook's directory, and this caller names none.",
            hint="Start the kernel with `cwd`, or name the directory itself.",
        )
    source = str(mount.get("source", "")).replace("{cwd}", cwd)
    target = str(mount.get("target", "")).replace("{cwd}", cwd)
    if kind == "bind":
        source = str(Path(source).expanduser().absolute())
    if not target.startswith("/") or (kind != "tmpfs" and not source):
        raise _malformed(mount, "a mount with a source, and an absolute path as target")
    size = mount.get("size")
    return Mount(
        kind,
        target,
        source,
        bool(mount.get("read_only")),
        None if size is None else memory_bytes(size),
    )


def _malformed(mount: Any, expected: str) -> ConfigurationError:
    return ConfigurationError(
        f"The mount {mount!r} is malformed.", hint=f"It has to be {expected}."
    )


def _mount_body(mount: Mount) -> dict[str, Any]:
    body: dict[str, Any] = {"Type": mount.type, "Target": mount.target, "ReadOnly": mount.read_only}
    if mount.source:
        body["Source"] = mount.source
    if mount.size is not None:
        body["TmpfsOptions"] = {"SizeBytes": mount.size}
    return body


def _resource_body(resources: Mapping[str, Any]) -> dict[str, Any]:
    unknown = resources.keys() - {"cpu", "memory", "gpu"}
    if unknown:
        raise ConfigurationError(
            f"resources has no {sorted(unknown)[0]!r}.", hint="It has cpu (cores), memory and gpu."
        )
    body: dict[str, Any] = {}
    if "cpu" in resources:
        try:
            body["NanoCpus"] = int(float(resources["cpu"]) * 1_000_000_000)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(
                f"resources.cpu is {resources['cpu']!r}.", hint="Give cores, such as 2 or 0.5."
            ) from error
    if "memory" in resources:
        body["Memory"] = memory_bytes(resources["memory"])
    if "gpu" in resources:
        body["DeviceRequests"] = [_gpu_body(resources["gpu"])]
    return body


def _gpu_body(gpu: Any) -> dict[str, Any]:
    if isinstance(gpu, (list, tuple)):
        return {"DeviceIDs": [str(device) for device in gpu], "Capabilities": [["gpu"]]}
    if gpu == "all":
        return {"Count": -1, "Capabilities": [["gpu"]]}
    if isinstance(gpu, int) and not isinstance(gpu, bool) and gpu > 0:
        return {"Count": gpu, "Capabilities": [["gpu"]]}
    raise ConfigurationError(
        f"resources.gpu is {gpu!r}.", hint='Give a number, "all", or a list of device ids.'
    )


def _merge(body: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(body)
    for name, value in extra.items():
        old = merged.get(name)
        merged[name] = (
            _merge(old, value) if isinstance(old, dict) and isinstance(value, Mapping) else value
        )
    return merged


def _refuse_hidden_connection_file(body: Mapping[str, Any]) -> None:
    host = body["HostConfig"]
    targets = [mount.get("Target", "") for mount in host.get("Mounts") or ()]
    targets += [bind.split(":")[1] for bind in host.get("Binds") or () if ":" in bind]
    targets += list(host.get("Tmpfs") or {})
    for target in targets:
        path = posixpath.normpath(target)
        if path == "/" or posixpath.commonpath([path, CONNECTION_FILE]) == path:
            raise ConfigurationError(
                f"The mount on {target!r} would hide the connection file {CONNECTION_FILE}.",
                hint="Mount it somewhere else.",
            )
