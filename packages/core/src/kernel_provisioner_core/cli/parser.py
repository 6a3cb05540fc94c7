"""The arguments of the commands."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

__all__ = ["parse"]

_PROGRAM = "jupyter provisioner"

_EXAMPLES = {
    "": """\
  jupyter provisioner list
  jupyter provisioner install kernel-provisioner-local --name mine --user
  jupyter provisioner check mine
  jupyter provisioner run mine -c 'print(6*7)'""",
    "list": """\
  jupyter provisioner list
  jupyter provisioner list --json""",
    "show": """\
  jupyter provisioner show kernel-provisioner-local
  jupyter provisioner show my_package.provisioner:MyProvisioner
  jupyter provisioner show kernel-provisioner-local --json-schema > schema.json""",
    "install": """\
  jupyter provisioner install kernel-provisioner-local --name mine --user
  jupyter provisioner install kernel-provisioner-docker --name scipy --display-name "SciPy in Docker" \\
      --set image=quay.io/jupyter/scipy-notebook:latest --set resources.memory=2G --sys-prefix
  jupyter provisioner install kernel-provisioner-local --name ir --language R --user \\
      -- R --slave -e 'IRkernel::main()' --args {connection_file}""",
    "run": """\
  jupyter provisioner run python3 -c 'print(6*7)'
  jupyter provisioner run mine script.py
  jupyter provisioner run mine notebook.ipynb --timeout 600
  echo 'print(6*7)' | jupyter provisioner run mine -

exit status:
  0 all is well, 1 a cell raised or nothing could be run, 2 wrong usage, 3 the kernel died,
  124 the time was up, 130 ended by Ctrl-C""",
    "check": """\
  jupyter provisioner check mine
  jupyter provisioner check mine --json""",
    "conform": """\
  jupyter provisioner conform kernel-provisioner-local
  jupyter provisioner conform my_package.provisioner:MyProvisioner --config '{"image": "..."}'
  jupyter provisioner conform mine --select launch --select restart --level MUST --junit report.xml
  jupyter provisioner conform --list""",
    "ps": """\
  jupyter provisioner ps
  jupyter provisioner ps --json""",
    "logs": """\
  jupyter provisioner logs 3f2a
  jupyter provisioner logs mine --tail 200""",
    "stop": """\
  jupyter provisioner stop 3f2a
  jupyter provisioner stop mine --now""",
    "reap": """\
  jupyter provisioner reap --dry-run
  jupyter provisioner reap""",
}


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the options of a command; `function` is what runs it, as `module:function`.

    Raises:
        SystemExit: The arguments make no sense, or ask for help or the version.
    """
    parser = _build()
    own, kernel_argv = list(argv), None
    # What follows `--` is the kernel's command; argparse would mix it up with its own positionals.
    if "--" in own and "install" in own[: own.index("--")]:
        cut = own.index("--")
        own, kernel_argv = own[:cut], own[cut + 1 :]
    options = parser.parse_args(own)
    options.argv = kernel_argv
    return options


class _Version(argparse.Action):
    """Looks the version up when it is asked for."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(nargs=0, **kwargs)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from importlib.metadata import version

        sys.stdout.write(f"kernel-provisioner-core {version('kernel-provisioner-core')}\n")
        parser.exit()


def _build() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="Kernel provisioners: what is installed, kernelspecs for them, kernels in them.",
        epilog=f"examples:\n{_EXAMPLES['']}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks and the log")
    parser.add_argument("--version", action=_Version, help="show the version and exit")
    commands = parser.add_subparsers(metavar="COMMAND", required=True, title="commands")

    def add(
        name: str, function: str, summary: str, *, json: bool = True
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"examples:\n{_EXAMPLES[name]}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        # Also behind the command. It must not undo what stood before it, so it has no default there.
        command.add_argument(
            "--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS
        )
        if json:
            command.add_argument("--json", action="store_true", help="print JSON")
        command.set_defaults(function=function)
        return command

    add("list", "listing:list_provisioners", "list the installed provisioners")

    show = add("show", "listing:show_provisioner", "show the options of a provisioner")
    _add_provisioner(show)
    show.add_argument(
        "--json-schema",
        action="store_true",
        help="print the JSON Schema of `config` in kernel.json",
    )

    _add_install(
        add("install", "install:install_kernelspec", "write a kernel.json for a provisioner")
    )
    _add_run(
        add("run", "run:run_code", "run code in a new kernel and print its output", json=False)
    )

    check = add(
        "check", "check:check_kernel", "try each stage of a kernel's life and say what is wrong"
    )
    _add_kernelspec(check)
    check.add_argument(
        "--startup-timeout",
        type=_seconds,
        default=60.0,
        metavar="SECONDS",
        help="how long the launched kernel may take to answer (default: 60)",
    )

    _add_conform(
        add("conform", "conform:conform", "run the conformance suite on a provisioner", json=False)
    )
    add(
        "ps",
        "kernels:list_kernels",
        "list the kernels that provisioners of this user have launched",
    )

    logs = add("logs", "kernels:show_logs", "print what a kernel has printed outside of its cells")
    _add_kernel(logs)
    logs.add_argument(
        "--tail", type=_count, default=100, metavar="N", help="only the last N lines (default: 100)"
    )

    stop = add(
        "stop", "kernels:stop_kernels", "shut kernels down and remove what was made for them"
    )
    _add_kernel(stop, nargs="+")
    stop.add_argument("--now", action="store_true", help="kill at once, without a shutdown request")
    stop.add_argument(
        "--force",
        action="store_true",
        help="also if the process that launched the kernel still runs",
    )

    reap = add("reap", "kernels:reap_kernels", "shut down the kernels whose owner is gone")
    reap.add_argument("--dry-run", action="store_true", help="only say what would be done")
    return parser


def _add_provisioner(command: argparse.ArgumentParser, **kwargs: Any) -> None:
    command.add_argument(
        "provisioner",
        metavar="NAME|MODULE:CLASS",
        help="the name of an installed provisioner, or its class",
        **kwargs,
    )


def _add_kernelspec(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "kernel", metavar="KERNEL", help="a kernelspec's name (`jupyter kernelspec list`)"
    )


def _add_kernel(command: argparse.ArgumentParser, **kwargs: Any) -> None:
    command.add_argument(
        "kernel",
        metavar="KERNEL",
        help="the beginning of a kernel's id, or a kernelspec's name",
        **kwargs,
    )


def _add_install(command: argparse.ArgumentParser) -> None:
    command.usage = (
        f"{_PROGRAM} install NAME --name KERNEL [--set KEY=VALUE ...] [options] [-- ARGV ...]"
    )
    command.add_argument(
        "provisioner", metavar="NAME", help="the installed provisioner (`jupyter provisioner list`)"
    )
    command.add_argument("--name", required=True, metavar="KERNEL", help="the kernelspec's name")
    command.add_argument("--display-name", metavar="TEXT", help="what the launcher shows")
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        type=_assignment,
        help="set an option of the provisioner; as JSON or text; KEY may go into objects: resources.cpu=2",
    )
    command.add_argument("--language", help="the kernel's language (default: python for ipykernel)")
    command.add_argument(
        "--interrupt-mode", choices=("signal", "message"), help="how the kernel is interrupted"
    )
    command.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        type=_assignment,
        help="set an environment variable of the kernel",
    )
    where = command.add_mutually_exclusive_group()
    where.add_argument("--user", action="store_true", help="install for this user only")
    where.add_argument(
        "--sys-prefix",
        action="store_const",
        const=sys.prefix,
        dest="prefix",
        help="install into this Python's environment",
    )
    where.add_argument("--prefix", metavar="PATH", help="install into PATH/share/jupyter/kernels")
    command.add_argument(
        "--replace", action="store_true", help="replace a kernelspec of this name in the same place"
    )


def _add_run(command: argparse.ArgumentParser) -> None:
    _add_kernelspec(command)
    code = command.add_mutually_exclusive_group()
    code.add_argument("-c", dest="code", metavar="CODE", help="the code to run")
    code.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="a file of code, a notebook (.ipynb: all its code cells), or - for stdin",
    )
    command.add_argument(
        "--timeout",
        type=_seconds,
        metavar="SECONDS",
        help="end the kernel if the code takes longer than this (default: no limit)",
    )
    command.add_argument(
        "--startup-timeout",
        type=_seconds,
        default=60.0,
        metavar="SECONDS",
        help="how long the launched kernel may take to answer (default: 60)",
    )


def _add_conform(command: argparse.ArgumentParser) -> None:
    _add_provisioner(command, nargs="?")
    command.add_argument(
        "--config",
        metavar="JSON",
        default="{}",
        help="the provisioner's options, as `config` in kernel.json",
    )
    command.add_argument(
        "--claim",
        action="append",
        metavar="CAPABILITY",
        help="a capability that the provisioner has; repeatable (default: what its class declares)",
    )
    command.add_argument(
        "--select",
        action="append",
        metavar="ID",
        help="only this check, or group of checks, or pattern; repeatable",
    )
    command.add_argument(
        "--level",
        choices=("MUST", "SHOULD"),
        help="MUST: leave out the checks that only SHOULD pass",
    )
    command.add_argument("--list", action="store_true", help="list the checks and run none")
    command.add_argument("--json", metavar="FILE", help="write the report as JSON; - for stdout")
    command.add_argument("--junit", metavar="FILE", help="write the report as JUnit XML")


def _assignment(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    return key, value


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return value


def _count(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value
