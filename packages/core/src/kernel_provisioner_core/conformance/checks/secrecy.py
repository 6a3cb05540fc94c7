"""The key is nobody's business: not in argv, environment, logs, messages, nor in readable files."""

from __future__ import annotations

import ipaddress
import os
import tempfile
import time
from pathlib import Path

from kernel_provisioner_core.conformance.bench import Bench, Kernel
from kernel_provisioner_core.conformance.check import CheckFailed, check, expect
from kernel_provisioner_core.conformance.checks.cleanup import files_with
from kernel_provisioner_core.conformance.checks.failure import chain
from kernel_provisioner_core.conformance.target import Capability


async def _start(bench: Bench) -> Kernel:
    """A kernel, encrypted if the provisioner claims that, so that there are two secrets."""
    metadata = bench.encrypted()
    if metadata is not None and Capability.ENCRYPTION in bench.target.claims:
        return await bench.start(bench.spec(metadata=metadata), transport_encryption="auto")
    return await bench.start()


async def _exposed(bench: Bench, *, in_argv: bool) -> None:
    kernel = await _start(bench)
    places = [
        place
        for place, text in await bench.see(bench.target.probe.exposed, kernel.identity)
        if ("argv" in place) is in_argv and any(secret in text for secret in kernel.secrets)
    ]
    expect(not places, f"the key stands in {', '.join(places)}")


@check("secrecy.argv")
async def argv(bench: Bench) -> None:
    """Neither the key nor a Curve key is in the argv of a process.

    If it fails: every user of the machine sees it in `ps`. Pass a file, or stdin.
    """
    await _exposed(bench, in_argv=True)


@check("secrecy.exposed")
async def exposed(bench: Bench) -> None:
    """Neither the key nor a Curve key is in the environment of a process, nor in labels or
    descriptions that the platform shows.

    If it fails: it is inherited by all children and shown by `docker inspect` and the like.
    """
    await _exposed(bench, in_argv=False)


@check("secrecy.log")
async def log(bench: Bench) -> None:
    """Neither the key nor a Curve key is in any log at any level, in the whole life of a kernel.

    If it fails: the message names the line without the key; do not log whole infos or environments.
    """
    with bench.all_logs():
        kernel = await _start(bench)
        secrets = kernel.secrets
        await kernel.restart(now=True)
        await kernel.provisioner.get_provisioner_info()
        await kernel.shutdown()
    for line in bench.log_text.splitlines():
        for secret in secrets:
            expect(secret not in line, f"in the log: {line.replace(secret, '<the key>')[:300]}")


@check("secrecy.errors")
async def errors(bench: Bench) -> None:
    """The error of a failed launch does not contain the key, nor does what is logged with it.

    If it fails: the error shows a whole info, environment or command.
    """
    kernel = bench.kernel(bench.spec(["/nonexistent/python", "-f", "{connection_file}"]))
    told = ""
    with bench.all_logs():
        try:
            await kernel.start()
        except CheckFailed:
            raise
        except Exception as error:
            told = chain(error)
    for secret in kernel.secrets:
        expect(secret not in told, "the key is in the error of a failed launch")
        expect(secret not in bench.log_text, "the key is in the log of a failed launch")


@check("secrecy.repr")
async def representation(bench: Bench) -> None:
    """Neither `repr` nor `str` of the provisioner contains the key.

    If it fails: it comes into every traceback with local variables and every debugger's log.
    """
    kernel = await _start(bench)
    text = f"{kernel.provisioner!r} {kernel.provisioner}"
    expect(not any(secret in text for secret in kernel.secrets), "the key is in repr() or str()")


@check("secrecy.files")
async def files(bench: Bench) -> None:
    """Every file with the key can be read by its owner only (0600), whatever the umask.

    If it fails: open it with `os.open(..., os.O_CREAT | os.O_EXCL, 0o600)`; a later chmod leaves
    a moment in which it is readable.
    """
    begun = time.time()
    umask = os.umask(0)
    try:
        kernel = await _start(bench)
    finally:
        os.umask(umask)
    found = files_with(bench.directory, kernel.secrets)
    found += [path for new in _new_in_temporary(begun, bench) for path in _hold(new, kernel)]
    for path in found:
        mode = path.stat().st_mode & 0o777
        expect(mode & 0o077 == 0, f"{path.name} holds the key and has mode {mode:04o}")


def _new_in_temporary(begun: float, bench: Bench) -> list[Path]:
    """What this user has made in the common temporary directory since then."""
    new = []
    for entry in os.scandir(tempfile.gettempdir()):
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError:
            continue
        own = status.st_uid == os.geteuid() and status.st_mtime >= begun - 1
        if own and Path(entry.path).resolve() != bench.directory:
            new.append(Path(entry.path))
    return new


def _hold(path: Path, kernel: Kernel) -> list[Path]:
    if path.is_dir():
        return files_with(path, kernel.secrets)
    small = path.is_file() and path.stat().st_size < 2**16
    content = path.read_bytes() if small else b""
    return [path] if any(secret.encode() in content for secret in kernel.secrets) else []


@check("secrecy.loopback")
async def loopback(bench: Bench) -> None:
    """The address that the manager dials is on the loopback interface, or the connection is
    encrypted.

    If it fails: code and output cross the network in plain text. Use a tunnel or CurveZMQ.
    """
    kernel = await bench.start()
    info = kernel.info
    if info.get("transport") != "tcp" or info.get("curve_publickey"):
        return
    name = info["ip"]
    local = name == "localhost" or ipaddress.ip_address(name).is_loopback
    expect(local, f"the kernel is dialled at {name}, without encryption")
