"""The command line, ``jupyter provisioner ...`` (extra ``cli``).

``main`` is the script ``jupyter-provisioner``. Each command is an object in a module of its own group, imported
when it is called.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

__all__ = ["main"]

_NEEDED = ("jupyter_client", "rich")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command of the command line.

    Args:
        argv: The arguments without the program's name; by default those of the process.

    Returns:
        The exit status: 0 for success, 1 for a failure; see the commands for more.

    Raises:
        SystemExit: With status 2 where the arguments make no sense, with 0 after `--help` and `--version`.
    """
    if any(importlib.util.find_spec(name) is None for name in _NEEDED):
        sys.stderr.write('The command line needs: pip install "kernel-provisioner-core[cli]"\n')
        return 1
    from kernel_provisioner_core.cli.command import run_command

    return run_command(sys.argv[1:] if argv is None else list(argv))
