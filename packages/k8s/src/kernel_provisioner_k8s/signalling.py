"""How a signal reaches a kernel in a container: by a command beside it, or by a message.

The command looks through /proc for processes that name the connection file, so that neither a pause process nor an
init program is taken for the kernel, and signals them and their descendants. It is written for any POSIX shell and
needs no other program; where there is no shell but the kernel is a Python, Python does the same.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import re
import uuid
from datetime import datetime, timezone
from typing import Any

from kernel_provisioner_core.connection import KernelConnectionInfo

__all__ = ["NOT_FOUND", "request_interrupt", "signal_commands"]

NOT_FOUND = 3
"""The exit code of the commands where no process names the connection file."""

_LINGER = 2000  # milliseconds that a message may take to leave

# $1 and $2 are the folder and the name of the connection file: in two words, so that no other such shell names it.
# The shells and init programs that the kernel may be wrapped in are spared, unless they are to end with it.
_SHELL = r"""
folder=$1 file=$2 signal=$3 kernels= wrappers= family=
for entry in /proc/[0-9]*; do
  pid=${entry#/proc/} stat= command=
  { IFS= read -r stat <"$entry/stat"; } 2>/dev/null || continue
  while IFS= read -r line || [ -n "$line" ]; do command=$command$line; done 2>/dev/null <"$entry/cmdline"
  name=${stat#*\(}; name=${name%\)*}
  set -- ${stat##*\) }
  family="$family $pid:$2"
  [ "$1" = Z ] && continue
  case $command in *"$folder/$file"*)
    case $name in
      sh|bash|dash|ash|zsh|ksh|busybox|tini|dumb-init|catatonit) wrappers="$wrappers $pid" ;;
      *) kernels="$kernels $pid" ;;
    esac ;;
  esac
done
case $signal in 9|15) kernels="$wrappers $kernels" ;; esac
[ -n "$kernels" ] || kernels=$wrappers
reached=" "
for pid in $kernels; do [ "$pid" = $$ ] || reached="$reached$pid "; done
[ "$reached" != " " ] || exit 3
more=1
while [ $more = 1 ]; do
  more=0
  for entry in $family; do
    pid=${entry%:*}
    case $reached in *" $pid "*) continue ;; esac
    case $reached in *" ${entry#*:} "*) reached="$reached$pid "; more=1 ;; esac
  done
done
refused=0
for pid in $reached; do kill -"$signal" "$pid" 2>/dev/null || { [ -d "/proc/$pid" ] && refused=4; }; done
exit $refused
"""

_PYTHON = r"""
import os, sys
folder, file, number = sys.argv[1], sys.argv[2], int(sys.argv[3])
path, parents, found = os.fsencode(folder + "/" + file), {}, []
for entry in os.listdir("/proc"):
    if not entry.isdigit() or int(entry) == os.getpid():
        continue
    try:
        fields = open("/proc/%s/stat" % entry, "rb").read().rpartition(b")")[2].split()
        command = open("/proc/%s/cmdline" % entry, "rb").read()
    except OSError:
        continue
    parents[int(entry)] = int(fields[1])
    if path in command and fields[0] != b"Z":
        found.append(int(entry))
if not found:
    sys.exit(3)
reached, more = set(found), True
while more:
    new = {pid for pid, parent in parents.items() if parent in reached} - reached
    reached |= new
    more = bool(new)
refused = 0
for pid in sorted(reached):
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        pass
    except PermissionError:
        refused = 4
sys.exit(refused)
"""


def signal_commands(program: str, connection_file: str, signum: int) -> list[list[str]]:
    """Return the commands that send a signal to the kernel; the second is for images without a shell.

    Args:
        program: The first word of the kernel's command.
        connection_file: The path of its connection file, where it runs.
        signum: The signal's number.
    """
    folder, _, file = connection_file.rpartition("/")
    arguments = [folder, file, str(signum)]
    commands = [["sh", "-c", _SHELL, "sh", *arguments]]
    if re.search(r"(^|/)python[0-9.]*$", program):
        commands.append([program, "-c", _PYTHON, *arguments])
    return commands


def request_interrupt(info: KernelConnectionInfo) -> None:
    """Send an `interrupt_request` on the control channel; blocks until it has left, or two seconds are over."""
    import zmq

    context: zmq.Context[Any] = zmq.Context()
    try:
        socket = context.socket(zmq.DEALER)
        socket.linger = _LINGER
        if info.get("curve_publickey"):
            public = info["curve_publickey"].encode()
            socket.curve_serverkey = socket.curve_publickey = public
            socket.curve_secretkey = info["curve_secretkey"].encode()
        socket.connect(f"tcp://{info['ip']}:{info['control_port']}")
        socket.send_multipart(_message(info["key"], "interrupt_request"))
        socket.close()
    finally:
        context.term()


def _message(key: bytes, kind: str) -> list[bytes]:
    header = {
        "msg_id": uuid.uuid4().hex,
        "msg_type": kind,
        "session": uuid.uuid4().hex,
        "username": "",
        "date": datetime.now(timezone.utc).isoformat(),
        "version": "5.3",
    }
    parts = [json.dumps(part).encode() for part in (header, {}, {}, {})]
    signature = hmac.new(key, b"".join(parts), hashlib.sha256).hexdigest().encode() if key else b""
    return [b"<IDS|MSG>", signature, *parts]
