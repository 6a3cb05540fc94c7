"""Connection files: write, find, read and check them.

The format is that of "Connection files" in jupyter_client's documentation ("Making kernels for Jupyter").
A connection file holds the key with which everybody who has it can run code as the kernel's user.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

from kernel_provisioner_core.errors import (
    ConfigurationError,
    ConnectionFileInvalidError,
    ConnectionFileNotFoundError,
    ConnectionFileWriteError,
)
from kernel_provisioner_core.ports import PortReservation

__all__ = [
    "PORT_NAMES",
    "KernelConnectionInfo",
    "find_connection_file",
    "jupyter_runtime_dir",
    "read_connection_file",
    "write_connection_file",
    "write_private_file",
]

PORT_NAMES = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")


class KernelConnectionInfo(TypedDict, total=False):
    """How a kernel is reached, as provisioners return it to the kernel manager.

    The manager compares it with its own and raises on a wrong type: `key` is bytes here and text in the
    file, the Curve keys are text (Z85) in both.
    """

    shell_port: int
    iopub_port: int
    stdin_port: int
    control_port: int
    hb_port: int
    ip: str
    key: bytes
    transport: str
    signature_scheme: str
    kernel_name: str
    curve_publickey: str
    curve_secretkey: str


def write_connection_file(
    fname: str | os.PathLike[str] | None = None,
    shell_port: int = 0,
    iopub_port: int = 0,
    stdin_port: int = 0,
    hb_port: int = 0,
    control_port: int = 0,
    ip: str = "",
    key: bytes = b"",
    transport: str = "tcp",
    signature_scheme: str = "hmac-sha256",
    kernel_name: str = "",
    curve_publickey: bytes | None = None,
    curve_secretkey: bytes | None = None,
    **kwargs: Any,
) -> tuple[str, dict[str, Any]]:
    """Write a connection file that only this user can read.

    The file appears whole or not at all: it is written beside its place and moved there. A file that is
    there already is replaced. May be called again.

    Args:
        fname: The file; by default a new one in the directory for temporary files.
        shell_port: The port of the shell channel; 0 chooses a free one (and does not hold it: see `ports`).
        iopub_port: Likewise for iopub.
        stdin_port: Likewise for stdin.
        hb_port: Likewise for the heartbeat.
        control_port: Likewise for control.
        ip: The address the kernel binds; by default 127.0.0.1.
        key: The key that signs messages; empty means that they are not signed.
        transport: `tcp` or `ipc`; with `ipc` the ports are numbers of sockets beside `ip`, a path.
        signature_scheme: How messages are signed.
        kernel_name: The kernelspec's name.
        curve_publickey: The CurveZMQ public key (Z85), where the kernel is to encrypt.
        curve_secretkey: The secret key to it.
        **kwargs: More entries for the file, taken over as they are.

    Returns:
        The file's path, and what was written into it (with `key` as text).

    Raises:
        ConfigurationError: `ip` is not an address of this machine, or the transport is unknown.
        ConnectionFileWriteError: The file cannot be written; nothing is left behind, and a file that was there
            is as it was.
    """
    if transport not in ("tcp", "ipc"):
        raise ConfigurationError(
            f"The transport {transport!r} is unknown.", hint="It has to be tcp or ipc."
        )
    wanted = {
        "shell_port": shell_port,
        "iopub_port": iopub_port,
        "stdin_port": stdin_port,
        "control_port": control_port,
        "hb_port": hb_port,
    }
    ip = ip or ("127.0.0.1" if transport == "tcp" else "kernel-ipc")
    info: dict[str, Any] = {
        **_choose_ports(wanted, ip, transport),
        "ip": ip,
        "key": key.decode(),
        "transport": transport,
        "signature_scheme": signature_scheme,
        "kernel_name": kernel_name,
    }
    if curve_publickey is not None:
        info["curve_publickey"] = curve_publickey.decode("ascii")
    if curve_secretkey is not None:
        info["curve_secretkey"] = curve_secretkey.decode("ascii")
    info.update(kwargs)
    if fname:
        path = os.fspath(fname)
    else:
        path = temporary_connection_file()
    try:
        write_private_file(path, json.dumps(info, indent=2))
    except OSError as error:
        raise connection_file_write_error(path, error) from error
    return path, info


def find_connection_file(
    filename: str = "kernel-*.json",
    path: str | Sequence[str] | None = None,
    profile: str | None = None,
) -> str:
    """Find the connection file of a kernel.

    Args:
        filename: A path, a file name, a pattern (with `*`), or any part of a file name.
        path: The directory or directories to look in; by default the current one and Jupyter's
            runtime directory.
        profile: Ignored: Jupyter has no profiles. It is here because jupyter_client takes it.

    Returns:
        The absolute path. Where several files match a pattern or a part, the one last read.

    Raises:
        ConnectionFileNotFoundError: Nothing matches.
    """
    del profile
    folders = [".", jupyter_runtime_dir()] if path is None else path
    folders = [folders] if isinstance(folders, str) else list(folders)
    expanded = os.path.expanduser(filename)
    for folder in folders:
        exact = os.path.join(folder, expanded)
        if os.path.isfile(exact):
            return os.path.abspath(exact)
    import glob

    pattern = expanded if "*" in expanded else f"*{glob.escape(expanded)}*"
    matches = [m for folder in folders for m in glob.glob(os.path.join(folder, pattern))]
    if not matches:
        raise ConnectionFileNotFoundError(
            f"No connection file matches {filename!r} in {', '.join(folders)}.",
            hint="`jupyter provisioner ps` lists the running kernels; `jupyter --runtime-dir` the directory.",
        )
    return os.path.abspath(max(matches, key=lambda match: os.stat(match).st_atime))


def read_connection_file(fname: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a connection file and check it.

    Returns:
        The file's entries; `key` and the Curve keys are text, as in the file.

    Raises:
        ConnectionFileNotFoundError: There is no such file.
        ConnectionFileInvalidError: It is not whole, an entry has the wrong type, or other users can read it.
    """
    path = os.fspath(fname)
    try:
        with open(path, encoding="utf-8") as file:
            mode = os.fstat(file.fileno()).st_mode
            text = file.read()
    except FileNotFoundError as error:
        raise ConnectionFileNotFoundError(f"There is no connection file {path!r}.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ConnectionFileInvalidError(f"The connection file {path!r} cannot be read.") from error
    # Windows keeps access rights elsewhere; the mode bits there say nothing.
    if sys.platform != "win32" and stat.S_IMODE(mode) & 0o077:
        raise ConnectionFileInvalidError(
            f"The connection file {path!r} can be read by other users (mode {stat.S_IMODE(mode):04o}): "
            "they could run code through its kernel.",
            hint=f"Stop the kernel and start it anew; `chmod 600 {path}` alone does not take the key back.",
        )
    try:
        info = json.loads(text)
    except ValueError as error:
        raise ConnectionFileInvalidError(
            f"The connection file {path!r} is truncated or no JSON: {error}.",
            hint="Start the kernel again: the file is written anew.",
        ) from error
    _check_types(path, info)
    return cast("dict[str, Any]", info)


def write_private_file(path: str | os.PathLike[str], text: str) -> None:
    """Write a file of mode 0600 in one piece: there is no moment at which it is readable or half there.

    Its directory is made, with mode 0700, if it is not there.

    Raises:
        OSError: It cannot be written, or the file system does not keep files private; nothing is left
            behind, and a file that was there is as it was.
    """
    folder, name = os.path.split(os.fspath(path))
    # the random part keeps two writers apart
    beside = os.path.join(folder, f".{name}.{os.urandom(6).hex()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    try:
        fd = os.open(beside, flags, 0o600)
    except FileNotFoundError:  # no directory; seldom, so it is not asked for each time
        os.makedirs(folder or ".", mode=0o700, exist_ok=True)
        fd = os.open(beside, flags, 0o600)
    try:
        with open(fd, "w", encoding="utf-8") as file:
            # Windows keeps access rights elsewhere; the mode bits there say nothing.
            if sys.platform != "win32" and os.fstat(fd).st_mode & 0o077:
                raise PermissionError(errno.EPERM, "The file system does not keep files private")
            file.write(text)
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


def temporary_connection_file() -> str:
    """Return a path for a connection file that nobody has a place for."""
    import tempfile

    return os.path.join(tempfile.gettempdir(), f"kernel-{os.urandom(8).hex()}.json")


def jupyter_runtime_dir() -> str:
    """Return the directory in which Jupyter keeps connection files, by the rules of jupyter_core."""
    env = os.environ
    if "JUPYTER_RUNTIME_DIR" in env:
        return env["JUPYTER_RUNTIME_DIR"]
    if "JUPYTER_DATA_DIR" in env:
        return os.path.join(env["JUPYTER_DATA_DIR"], "runtime")
    try:  # with platform directories switched on, only jupyter_core knows
        from jupyter_core import paths
    except ImportError:
        return os.path.join(_data_dir(), "runtime")
    return str(paths.jupyter_runtime_dir())


def connection_file_write_error(path: str, error: OSError) -> ConnectionFileWriteError:
    """Say what kept a connection file from being written, and the cure."""
    return ConnectionFileWriteError(
        f"The connection file {path!r} cannot be written: {error.strerror or error}.",
        hint="Free space on that file system, make the directory writable, or set JUPYTER_RUNTIME_DIR to "
        "one that is.",
    )


def _data_dir() -> str:
    home = Path.home()
    if sys.platform == "darwin":
        return str(home / "Library" / "Jupyter")
    if sys.platform == "win32":
        appdata = os.environ.get("APPDATA")
        return str(Path(appdata, "jupyter") if appdata else home / ".jupyter" / "data")
    return os.path.join(os.environ.get("XDG_DATA_HOME") or home / ".local" / "share", "jupyter")


def _choose_ports(wanted: Mapping[str, int], ip: str, transport: str) -> dict[str, int]:
    missing = [name for name, port in wanted.items() if port <= 0]
    if transport == "tcp":
        reservation = PortReservation(ip, [0] * len(missing))
        chosen: Sequence[int] = reservation.ports
        reservation.release()
    else:
        taken = set(wanted.values())
        free = (n for n in range(1, 1 << 16) if n not in taken and not os.path.exists(f"{ip}-{n}"))
        chosen = [next(free) for _ in missing]
    return {**wanted, **dict(zip(missing, chosen, strict=True))}


def _check_types(path: str, info: Any) -> None:
    if not isinstance(info, dict):
        raise ConnectionFileInvalidError(f"The connection file {path!r} is no JSON object.")
    for name in PORT_NAMES:
        port = info.get(name)
        if not isinstance(port, int) or isinstance(port, bool) or not 0 <= port < 1 << 16:
            raise _wrong_entry(path, name, port, "a port number")
    for name in ("ip", "key", "transport"):
        if not isinstance(info.get(name), str):
            raise _wrong_entry(path, name, info.get(name), "text")
    for name in ("signature_scheme", "kernel_name", "curve_publickey", "curve_secretkey"):
        if not isinstance(info.get(name, ""), str):
            raise _wrong_entry(path, name, info[name], "text")


def _wrong_entry(path: str, name: str, value: object, expected: str) -> ConnectionFileInvalidError:
    # of a key only its type is told
    shown = "missing" if value is None else f"of type {type(value).__name__}"
    if isinstance(value, int) and not isinstance(value, bool):
        shown = str(value)
    return ConnectionFileInvalidError(
        f"In the connection file {path!r}, {name!r} has to be {expected} and is {shown}.",
        hint="Start the kernel again: the file is written anew.",
    )
