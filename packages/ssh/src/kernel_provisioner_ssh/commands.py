"""What is run on the remote host, as text for `/bin/sh` there; values in, a script out.

A script goes through the standard input of a shell, so nothing of it is on a command line. Every value is quoted.
What a script has to say it says in lines that begin with a mark, which the noise of start-up files cannot contain:

    MARK ok DIRECTORY PORTS...      MARK error WHAT      MARK gone
"""

from __future__ import annotations

import json
import re
import shlex
import signal as signals
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

from kernel_provisioner_core.connection import PORT_NAMES
from kernel_provisioner_core.errors import ConfigurationError

__all__ = [
    "SHELL",
    "Launch",
    "attach_script",
    "check_script",
    "directory_name",
    "find_kernelspec_script",
    "kernel_script",
    "launch_script",
    "logs_script",
    "remove_script",
    "session_end_script",
    "signal_script",
    "watch_script",
]

SHELL = "exec /bin/sh"
"""The command of every exec: any login shell understands it, also csh and fish."""

CONNECTION_FILE = "{connection_file}"
"""What stands for the connection file in a command until the host has said where it is."""

_LONGEST_STEP = 15  # seconds between two looks at a lease

# Signals that go to all of the kernel's group; its supervisor is deaf to them.
_TO_GROUP = {"HUP", "INT", "QUIT", "TERM"}

# Sets `group` and `started` of a process; false if there is none. Linux needs no ps.
_IDENTIFY = """\
identify() {
  if [ -r /proc/self/stat ]; then
    { IFS= read -r stat <"/proc/$1/stat"; } 2>/dev/null || return 1
    set -- ${stat##*) }
    group=$3 started=${20}
  else
    set -- $(ps -o state= -o pgid= -o lstart= -p "$1" 2>/dev/null)
    group=$2 started=$3-$4-$5-$6-$7
  fi
  case $1 in '' | Z* | X*) return 1 ;; esac
}
"""

# Whether the process that a file tells of runs; sets `pid`, `started` and `group`.
_RUNS = """\
runs() {
  { read -r pid begun own <"$1"; } 2>/dev/null || return 1
  identify "$pid" && [ "$started" = "$begun" ]
}
"""

# Makes a directory that is this user's alone, or finds it so.
_PRIVATE = """\
private() {
  mkdir -p -- "$1" || return 1
  set -- "$1" $(LC_ALL=C ls -ldn -- "$1")
  case $2 in drwx------*) [ "$4" = "$uid" ] && return ;; esac
  echo "$1 is not private to this user" >&2
  return 1
}
"""

# The directories in which kernels may have theirs. What is to outlive the session does not go where the end of the
# last session removes all, as it does with XDG_RUNTIME_DIR unless the user lingers.
_BASES = """\
uid=$(id -u)
runtime=${XDG_RUNTIME_DIR:-/run/user/$uid}
each_base() {
  if [ -d "$runtime" ] && { [ "$1" = 0 ] || [ -e "/var/lib/systemd/linger/$(id -un)" ]; }; then
    "$2" "$runtime/kernel-provisioners" && return
  fi
  for parent in "${TMPDIR:-}" /tmp; do
    [ -d "$parent" ] && "$2" "$parent/kernel-provisioners-$uid" && return
  done
  [ -n "$HOME" ] && "$2" "$HOME/.cache/kernel-provisioners"
}
"""


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel on a host.

    Args:
        name: The name of the kernel's directory there.
        owner: The name of the directory of who answers for it.
        argv: The command; `{connection_file}` stands for the connection file.
        connection_file: The connection file's name.
        connection: What it holds beside the ports.
        env: The kernel's environment, on top of the host's.
        cwd: The working directory; empty for the home directory.
        setup: Shell commands that are run before.
        login_shell: Whether setup and kernel are run by a login shell.
        lease: How long the kernel lives without its owner, in seconds; 0 for ever.
        writes_ports_back: Whether the kernel chooses its ports and writes them into the connection file; else they
            are chosen on the host, before.
        seed: Makes the host's choice of ports another one than that of other launches.
    """

    name: str
    owner: str
    argv: tuple[str, ...]
    connection_file: str
    connection: Mapping[str, Any] = field(repr=False)
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str = ""
    setup: tuple[str, ...] = ()
    login_shell: bool = False
    lease: int = 300
    writes_ports_back: bool = True
    seed: int = 0


def directory_name(kernel_id: str, token: str) -> str:
    """Return the name of a kernel's directory: what is safe of its id, and a token that makes it unique."""
    return f"{re.sub('[^A-Za-z0-9._-]', '_', kernel_id)[:64].lstrip('.-') or 'kernel'}-{token}"


def renewal_step(lease: int) -> int:
    """Return how many seconds a supervisor waits between two looks at the lease."""
    return max(1, min(lease // 5, _LONGEST_STEP))


def launch_script(launch: Launch, mark: str) -> str:
    """Return the script that makes the kernel's directory with all that is in it, and starts the kernel there.

    The answer is `ok DIRECTORY PORTS`, or `error` with what the tools said.
    """
    persist = "0" if launch.lease else "1"
    lease = f"{launch.lease} {renewal_step(launch.lease)}"
    file = shlex.quote(launch.connection_file)
    back = file if launch.writes_ports_back else "''"
    return "\n".join(
        [
            _head(mark),
            _PRIVATE,
            _BASES,
            _ports(launch),
            f'owner() {{ echo "$1/{launch.owner}"; return 1; }}',
            "make() {",
            f'  private "$1" && mkdir -- "$1/{launch.name}" || return',
            f"  d=$1/{launch.name}",
            '  if fill "$d"; then return; fi',
            '  rm -rf -- "$d"',
            "  d=",
            "  return 1",
            "}",
            "fill() {",
            '  cd -- "$1" || return',
            f"  {{ {_cat(_opening(launch.connection))}",
            f"  cat <<{_END}\n{_CLOSING}\n{_END}",
            f"  }} >{file} || return",
            f"  {{ {_cat(_IDENTIFY + _supervisor())}",
            "  } >supervisor.sh || return",
            f"  {{ {_cat(kernel_script(launch))}",
            "  } >kernel.sh || return",
            f"  {{ {_cat(start_script(launch))}",
            "  } >start.sh || return",
            '  [ -z "$ports" ] || echo "$ports" >ports || return',
            "  { each_base 0 owner || :; } >owners",
            "}",
            # in one piece: its own input is the rest of this script
            "start() {",
            # from here on nothing holds the channel, and with it a session of sshd's
            "  exec </dev/null >/dev/null 2>&1",
            '  cd -- "$d" || exit',
            # Both sides of the pipe outlive this shell, in its process group. Started by `&` the kernel would
            # ignore SIGINT for ever.
            f"  /bin/sh ./supervisor.sh run {lease} {back} 2>&1 | {{",
            "    kill -s KILL $$",
            "    exec /bin/sh ./supervisor.sh log",
            "  }",
            "}",
            "d=",
            f"each_base {persist} make 2>&1",
            'if [ -z "$d" ]; then',
            "  say error there is no place for the connection file",
            "  exit",
            "fi",
            'say ok "$d" $ports',
            "start",
            "",
        ]
    )


def kernel_script(launch: Launch) -> str:
    """Return `kernel.sh`, which the supervisor runs: it tells who it is, and becomes the kernel's shell."""
    lines = [_IDENTIFY, 'identify "$$" && echo "$$ $started $group" >pid.tmp && mv -f pid.tmp pid']
    if launch.login_shell:
        lines += [
            "case ${SHELL##*/} in",
            '  sh | bash | dash | ash | ksh | mksh | zsh) exec "$SHELL" -l ./start.sh ;;',
            "  *) exec /bin/sh -l ./start.sh ;;",
            "esac",
        ]
    else:
        lines.append("exec /bin/sh ./start.sh")
    return "\n".join([*lines, ""])


def start_script(launch: Launch) -> str:
    """Return `start.sh`: environment, working directory, setup commands, and then the kernel in its place."""
    lines = [f"connection_file=$PWD/{shlex.quote(launch.connection_file)}"]
    lines += [
        f"export {_variable(name)}={shlex.quote(value)}" for name, value in launch.env.items()
    ]
    lines += [*_change_directory(launch.cwd), *_setup(launch.setup)]
    lines += [
        f"set -- {' '.join(_word(word) for word in launch.argv)}",
        'if ! command -v -- "$1" >/dev/null; then',
        '  printf "%s: command not found\\n" "$1" >&2',
        "  exit 127",
        "fi",
        'exec "$@"',
        "",
    ]
    return "\n".join(lines)


def find_kernelspec_script(
    name: str, env: Mapping[str, str], setup: Sequence[str], login_shell: bool, mark: str
) -> str:
    """Return the script that finds a kernelspec on the host, as the Jupyter there would.

    The answer is `found DIRECTORY`, `prefix PREFIX` where it belongs to one, and then the file; or `none` and the
    names that there are.
    """
    lines = [f"export {_variable(key)}={shlex.quote(value)}" for key, value in env.items()]
    lines += [
        _say(mark),
        *_setup(setup),
        f"name={shlex.quote(name)}",
        "look() {",
        '  [ -n "$1" ] || return',
        '  for found in "$1"/kernels/*/kernel.json; do',
        '    [ -f "$found" ] || continue',
        "    found=${found%/kernel.json}",
        '    seen="$seen ${found##*/}"',
        # kernelspecs are case-insensitive
        '    [ "$(echo "${found##*/}" | tr A-Z a-z)" = "$name" ] || continue',
        '    say found "$found"',
        '    [ -z "$2" ] || say prefix "$2"',
        '    cat -- "$found/kernel.json"',
        "    exit 0",
        "  done",
        "}",
        "prefix() {",
        '  [ -n "$1" ] && look "$1/share/jupyter" "$1"',
        "}",
        "of_command() {",
        '  found=$(command -v "$1") || return',
        "  found=${found%/*}",
        '  prefix "${found%/*}"',
        "}",
        "seen=",
        "rest=${JUPYTER_PATH:-}:",
        'while [ -n "$rest" ]; do',
        '  look "${rest%%:*}"',
        "  rest=${rest#*:}",
        "done",
        'look "${JUPYTER_DATA_DIR:-}"',
        'look "${XDG_DATA_HOME:-$HOME/.local/share}/jupyter"',
        'look "$HOME/Library/Jupyter"',
        'prefix "${VIRTUAL_ENV:-}"',
        'prefix "${CONDA_PREFIX:-}"',
        "for command in jupyter python3 python; do of_command $command; done",
        "look /usr/local/share/jupyter /usr/local",
        "look /usr/share/jupyter /usr",
        "say none $seen",
        "",
    ]
    body = "\n".join(lines)
    if not login_shell:
        return body
    return "\n".join([f"script={shlex.quote(body)}", *_LOGIN, ""])


def watch_script(owner: str, session: str, mark: str) -> str:
    """Return the script that tells of all kernels of an owner, for as long as its input stays open.

    It first says `session PID START_TIME` (the server process behind this connection), then `run NAME`, `exit NAME
    STATUS`, `lost NAME` and `ports NAME PORTS` for the kernels that there are, then `ready`, and from then on what
    happens. Each line of input renews the lease of the owner's kernels, and makes it look for those that have ended
    without a word.
    """
    return "\n".join(
        [
            _head(mark),
            _RUNS,
            _PRIVATE,
            _BASES,
            # all or nothing, should the connection be cut while the script arrives
            "main() {",
            # who goes on without a listener has still to tidy up
            "trap '' PIPE",
            "o=",
            f'take() {{ private "$1" && mkdir -p -- "$1/{owner}" && o=$1/{owner}; }}',
            "each_base 0 take",
            '[ -n "$o" ] || { say error no directory for the watch; exit; }',
            f'echo {session} >"$o/session" || {{ say error no space for the watch; exit; }}',
            '[ -p "$o/events" ] || mkfifo "$o/events" || { say error no pipe for the watch; exit; }',
            # to be read and written: it neither waits for a writer nor ends with the last one
            'exec 3<>"$o/events" 4<&0',
            'identify "$PPID" && say session "$PPID" "$started"',
            "tell() {",
            '  if [ -e "$1/exit" ] && read -r status <"$1/exit"; then',
            '    say exit "${1##*/}" "$status"',
            '  elif [ ! -e "$1/pid" ] || runs "$1/pid"; then',
            '    [ -z "$2" ] || say run "${1##*/}"',
            "  else",
            # its supervisor is about to say it
            "    sleep 1",
            '    if [ -e "$1/exit" ] && read -r status <"$1/exit"; then',
            '      say exit "${1##*/}" "$status"',
            "    else",
            '      say lost "${1##*/}"',
            "    fi",
            "  fi",
            "}",
            "survey() {",
            '  for kernel in "$1"/*/; do',
            "    kernel=${kernel%/}",
            '    { grep -qxF -- "$o" "$kernel/owners"; } 2>/dev/null || continue',
            '    tell "$kernel" "$all"',
            '    if [ -n "$all" ] && [ -e "$kernel/ports" ]; then',
            '      say ports "${kernel##*/}" $(cat "$kernel/ports")',
            "    fi",
            "  done",
            "  return 1",
            "}",
            "all=1",
            "each_base 0 survey",
            "all=",
            "{",
            "  while read -r stamp; do",
            '    echo "$stamp" >"$o/lease"',
            "    each_base 0 survey",
            "  done",
            # Who has taken over goes on here.
            f'  read -r session <"$o/session" && [ "$session" = {session} ] && rm -rf -- "$o"',
            "  echo end >&3",
            "} <&4 &",
            "say ready",
            "while read -r event <&3; do",
            '  [ "$event" = end ] && break',
            "  say $event 2>/dev/null || break",
            "done",
            "}",
            "main",
            "",
        ]
    )


def session_end_script(pid: str, started: str, mark: str) -> str:
    """Return the script that ends the server process of an earlier connection, and all that goes through that."""
    return "\n".join(
        [
            _head(mark),
            f"pid={shlex.quote(pid)} begun={shlex.quote(started)}",
            'identify "$pid" && [ "$started" = "$begun" ] && kill -s TERM "$pid"',
            "say ok",
            "",
        ]
    )


def signal_script(directory: str, signum: int, mark: str) -> str:
    """Return the script that signals a kernel, once it is sure that the process is the kernel.

    It says `ok` or `gone`.
    """
    name = _signal_name(signum)
    target = '-- "-$own"' if name in _TO_GROUP else '"$pid"'
    return "\n".join(
        [
            _head(mark),
            _RUNS,
            f"cd -- {shlex.quote(directory)} 2>/dev/null || {{ say gone; exit; }}",
            # it may be just about to write down who it is
            "[ -e pid ] || sleep 1",
            "if [ ! -e exit ] && runs pid; then",
            f"  if kill -s {name} {target}; then say ok; else say error the signal was refused; fi",
            "else",
            "  say gone",
            "fi",
            "",
        ]
    )


def remove_script(name: str, mark: str) -> str:
    """Return the script that kills a kernel and all in its group, and removes its directory; it says `ok`."""
    return "\n".join(
        [
            _head(mark),
            _RUNS,
            _BASES,
            "remove() {",
            f"  d=$1/{name}",
            '  [ -d "$d" ] || return 1',
            '  runs "$d/pid" && kill -s KILL "$pid" && kill -s KILL -- "-$own"',
            '  runs "$d/supervisor" && kill -s KILL -- "-$own"',
            '  rm -rf -- "$d"',
            "  return 1",
            "}",
            "each_base 0 remove 2>/dev/null",
            "say ok",
            "",
        ]
    )


def logs_script(directory: str, tail: int, mark: str) -> str:
    """Return the script that prints the last bytes of a kernel's output, behind the line `ok`."""
    return "\n".join(
        [
            _head(mark),
            f"cd -- {shlex.quote(directory)} 2>/dev/null || {{ say gone; exit; }}",
            "say ok",
            f"cat log.1 log 2>/dev/null | tail -c {int(tail)}",
            "",
        ]
    )


def attach_script(directory: str, owner: str, mark: str) -> str:
    """Return the script that makes one more owner answer for a running kernel.

    It says `ok`, `gone` or `exit STATUS`.
    """
    return "\n".join(
        [
            _head(mark),
            _RUNS,
            _BASES,
            f"cd -- {shlex.quote(directory)} 2>/dev/null || {{ say gone; exit; }}",
            "if [ -e exit ]; then say gone; exit; fi",
            "runs pid || { say gone; exit; }",
            f'add() {{ echo "$1/{owner}" >>owners; return 1; }}',
            f"grep -qF -- {owner} owners || each_base 0 add",
            "say ok",
            "",
        ]
    )


def check_script(word: str, setup: Sequence[str], login_shell: bool, mark: str) -> str:
    """Return the script that says what a launch would find.

    It answers `shell: ...`, `runtime directory: ...` and `kernel command: ...`.

    Args:
        word: The first word of the command; empty if it is not known yet.
        setup: As in `Launch`.
        login_shell: As in `Launch`.
        mark: The mark.
    """
    lines = [
        _say(mark),
        *_setup(setup),
        f'command=$(command -v -- {shlex.quote(word)}) && say kernel command: "$command"'
        if word
        else "say kernel command: the kernelspec of the host",
    ]
    body = shlex.quote("\n".join(lines))
    return "\n".join(
        [
            _head(mark),
            _PRIVATE,
            _BASES,
            'say shell: "${SHELL:-/bin/sh}, $(uname -sm)"',
            'there() { private "$1" && say runtime directory: "$1"; }',
            "each_base 0 there 2>&1",
            f"script={body}",
            *(_LOGIN if login_shell else ['exec /bin/sh -c "$script" </dev/null 2>&1']),
            "",
        ]
    )


# -- parts --------------------------------------------------------------------------------------

# Runs `script` by the user's own shell, if that can read it.
_LOGIN = [
    "case ${SHELL##*/} in",
    '  sh | bash | dash | ash | ksh | mksh | zsh) exec "$SHELL" -l -c "$script" </dev/null ;;',
    '  *) exec /bin/sh -l -c "$script" </dev/null ;;',
    "esac",
]

_END = "kernel_provisioner_end"
_CLOSING = (
    "\n".join(
        f'  "{name}": ${{p{number}}},' for number, name in enumerate(PORT_NAMES, 1)
    ).removesuffix(",")
    + "\n}"
)
# What is between is not in anybody's ephemeral range.
_FIRST_PORT, _LAST_PORT = 16384, 32000


def _say(mark: str) -> str:
    return f"say() {{ printf '%s %s\\n' {mark} \"$*\"; }}"


def _head(mark: str) -> str:
    return "\n".join(["umask 077", _say(mark), _IDENTIFY])


def _ports(launch: Launch) -> str:
    """Set `ports`, and the positional parameters to them."""
    if launch.writes_ports_back:
        return "ports= p1=0 p2=0 p3=0 p4=0 p5=0"
    # Linux tells which ports are in use; elsewhere the choice is blind, and a kernel that meets a taken one is
    # started again.
    return "\n".join(
        [
            "ports=$(cat /proc/net/tcp /proc/net/tcp6 2>/dev/null | awk '",
            '  { split($2, address, ":"); used[address[2]] = 1 }',
            "  END {",
            f"    srand({launch.seed}); count = 0",
            "    while (count < 5) {",
            f"      port = {_FIRST_PORT} + int(rand() * {_LAST_PORT - _FIRST_PORT})",
            '      hex = sprintf("%04X", port)',
            '      if (!(hex in used)) { used[hex] = 1; printf "%d ", port; count++ }',
            "    }",
            "  }')",
            "set -- $ports",
            "p1=$1 p2=$2 p3=$3 p4=$4 p5=$5",
        ]
    )


def _opening(connection: Mapping[str, Any]) -> str:
    """Return the connection file's text up to where the ports follow."""
    entries = {name: value for name, value in connection.items() if name not in PORT_NAMES}
    return json.dumps(entries, indent=2).rstrip("}").rstrip() + ",\n"


def _supervisor() -> str:
    return resources.files(__package__).joinpath("supervisor.sh").read_text(encoding="utf-8")


def _cat(text: str) -> str:
    """Return a command that prints a text as it is; unlike `printf`, it is nowhere an argument."""
    end = _END
    while end in text:
        end += "_"
    return f"cat <<'{end}'\n{text.removesuffix(chr(10))}\n{end}"


def _word(word: str) -> str:
    """Quote a word of the command, with the connection file in its place."""
    parts = word.split(CONNECTION_FILE)
    return '"$connection_file"'.join(
        shlex.quote(part) if part or len(parts) == 1 else "" for part in parts
    )


def _variable(name: str) -> str:
    if not re.fullmatch("[A-Za-z_][A-Za-z0-9_]*", name):
        raise ConfigurationError(
            f"{name!r} cannot be a variable of the environment on a remote host.",
            hint="Letters, digits and underscores are allowed, and no digit in the first place.",
        )
    return name


def _change_directory(path: str) -> list[str]:
    if path in ("", "~"):
        quoted = '"$HOME"'
    elif path.startswith("~/"):
        quoted = '"$HOME"/' + shlex.quote(path[2:])
    else:
        quoted = shlex.quote(path)
    refusal = shlex.quote(f"the working directory {path or '~'} cannot be entered\n")
    return [f"cd -- {quoted} || {{ printf %s {refusal} >&2; exit 126; }}"]


def _setup(commands: Sequence[str]) -> list[str]:
    """Run each command, also one that is no valid shell, and stop at the first that fails."""
    lines = []
    for command in commands:
        refusal = shlex.quote(f"setup failed: {command}\n")
        lines.append(f"eval {shlex.quote(command)} || {{ printf %s {refusal} >&2; exit 125; }}")
    return lines


def _signal_name(signum: int) -> str:
    try:
        return signals.Signals(signum).name.removeprefix("SIG")
    except ValueError as error:
        raise ConfigurationError(f"{signum} is no signal that has a name.") from error
