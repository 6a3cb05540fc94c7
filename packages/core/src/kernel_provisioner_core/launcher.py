"""From a command and an environment to a running child process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from kernel_provisioner_core.errors import CommandNotFoundError, LaunchError

__all__ = ["launch_kernel"]

_PARENT = "JPY_PARENT_PID"


def launch_kernel(
    cmd: Any,
    stdin: int | IO[Any] | None = None,
    stdout: int | IO[Any] | None = None,
    stderr: int | IO[Any] | None = None,
    env: Mapping[str, str] | None = None,
    independent: bool = False,
    cwd: str | os.PathLike[str] | None = None,
    **kw: Any,
) -> subprocess.Popen[Any]:
    """Start a kernel as a child process, the leader of a session and a process group of its own.

    Called by provisioners that run a kernel on this machine, and usable without one. Each call starts a process.

    Args:
        cmd: The command, as `subprocess.Popen` takes it (usually a list of strings). A leading `~` of
            an element is the user's home directory.
        stdin: As for Popen. By default the kernel reads an empty file: a server's own standard input is none
            of its business, and may be closed.
        stdout: As for Popen; by default the kernel writes to where this process writes.
        stderr: As for Popen; likewise.
        env: The kernel's whole environment; by default this process's. The mapping is not changed.
        independent: True for a kernel that outlives this process. Otherwise the kernel is told
            this process's pid in JPY_PARENT_PID, and kernels that look at it (ipykernel does) end with it.
        cwd: The kernel's working directory; by default this process's.
        **kw: Further arguments of Popen; they win over the ones chosen here (flags are added up).

    Returns:
        The running process. On Windows it has an attribute `interrupt_event` (see `windows.InterruptEvent`).

    Raises:
        CommandNotFoundError: The command, the interpreter in its first line, or `cwd` does not exist.
        LaunchError: The command is empty, or the operating system refuses to run it for another reason. No
            process is left behind in either case.
    """
    if isinstance(cmd, (list, tuple)) and not cmd:
        raise LaunchError("The kernel's command is empty.", hint="Give `argv` in kernel.json.")
    arguments: dict[str, Any] = {
        "stdin": subprocess.DEVNULL if stdin is None else stdin,
        "stdout": stdout,
        "stderr": stderr,
        "cwd": cwd,
        "env": _environment(env, independent),
    }
    interrupt_event: Any = None
    if sys.platform == "win32":
        interrupt_event = _add_windows_arguments(arguments, independent, kw.pop("creationflags", 0))
    elif (
        "process_group" not in kw
    ):  # a session leader cannot join a group: the caller has to choose
        arguments["start_new_session"] = True
    arguments.update(kw)

    try:
        process: subprocess.Popen[Any] = subprocess.Popen(_expand_home(cmd), **arguments)
    except OSError as error:
        if interrupt_event is not None:
            interrupt_event.close()
        raise _explain(cmd, arguments, error) from error
    if interrupt_event is not None:
        process.interrupt_event = interrupt_event  # type: ignore[attr-defined]
    return process


def _environment(env: Mapping[str, str] | None, independent: bool) -> dict[str, str]:
    result = dict(os.environ if env is None else env)
    # A server that was itself started from a kernel has the variable of that kernel's parent.
    result.pop(_PARENT, None)
    if not independent:
        result[_PARENT] = str(os.getpid())
    return result


def _add_windows_arguments(arguments: dict[str, Any], independent: bool, flags: int) -> Any:
    from kernel_provisioner_core import windows

    event = windows.InterruptEvent()
    environment = arguments["env"]
    # The second name is the one that kernels of before 2015 read.
    environment["JPY_INTERRUPT_EVENT"] = environment["IPY_INTERRUPT_EVENT"] = str(event.handle)
    if independent:
        flags |= windows.CREATE_NEW_PROCESS_GROUP
    else:
        environment[_PARENT] = str(windows.parent_handle())
    if sys.executable.endswith("pythonw.exe"):  # it has no console and no valid standard streams
        flags |= windows.CREATE_NO_WINDOW
        for stream in ("stdout", "stderr"):
            if arguments[stream] is None:
                arguments[stream] = subprocess.DEVNULL
    arguments["creationflags"] = flags
    arguments["close_fds"] = False  # or the two handles would not be inherited
    return event


def _expand_home(cmd: Any) -> Any:
    if isinstance(cmd, (str, bytes, os.PathLike)):  # Popen takes one string too, with shell=True
        return cmd
    return [os.path.expanduser(word) for word in cmd]


def _explain(cmd: Any, arguments: Mapping[str, Any], error: OSError) -> LaunchError:
    """Say what the command's failure means; never with the environment, which may hold secrets."""
    cwd = arguments["cwd"]
    if cwd is not None and not os.path.isdir(cwd):
        return CommandNotFoundError(
            f"The kernel's working directory {os.fspath(cwd)!r} does not exist.",
            hint="Create it, or start the kernel in another directory.",
        )
    words = [cmd] if isinstance(cmd, (str, bytes, os.PathLike)) else list(cmd)
    program = os.path.expanduser(os.fsdecode(words[0]))
    path = (arguments["env"] or os.environ).get("PATH", os.defpath)
    if not isinstance(error, FileNotFoundError):
        return LaunchError(
            f"The kernel's command {program!r} cannot be run: {error.strerror or error}.",
            hint="It has to be an executable file for this machine (`chmod +x`, right architecture).",
        )
    import shutil

    found = shutil.which(program, path=path)
    if found is None:
        where = "" if os.path.dirname(program) else f" on the PATH {path!r}"
        return CommandNotFoundError(
            f"The kernel's command {program!r} does not exist{where}.",
            hint="Correct `argv` in kernel.json, or install what it names.",
        )
    return CommandNotFoundError(
        f"The kernel's command {found!r} exists, but {_interpreter(found)} does not.",
        hint="Correct the first line of that file, or install what it names.",
    )


def _interpreter(script: str) -> str:
    with Path(script).open("rb") as file:
        first = file.readline(256)
    if first.startswith(b"#!"):
        return f"the interpreter {os.fsdecode(first[2:].strip())!r} in its first line"
    return "its dynamic linker"
