"""Virtual environments by nothing but Python and pip, and commands that are shown as they run."""

from __future__ import annotations

import importlib.util
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

WINDOWS = sys.platform == "win32"


def make_environment(folder: Path, *requirements: str) -> Path:
    """Make a virtual environment, or bring it up to date; return the folder of its scripts.

    Debian's venv cannot put pip into an environment, and its pip refuses to install outside of one. Used together
    they work, whatever the age of that pip: it installs a new pip into the environment, and that one the rest.
    """
    scripts = folder / ("Scripts" if WINDOWS else "bin")
    python = scripts / ("python.exe" if WINDOWS else "python")
    if not python.exists():
        bare = ["--without-pip"] if importlib.util.find_spec("pip") else []
        show([sys.executable, "-m", "venv", *bare, str(folder)], check=True)
    if _run(python, "import pip").returncode != 0:
        where = _run(
            python, "import sysconfig; print(sysconfig.get_path('purelib'))"
        ).stdout.strip()
        _install(sys.executable, f"--target={where}", "pip")
    _install(str(python), *requirements)
    return scripts


def show(command: list[str], **options: Any) -> subprocess.CompletedProcess[Any]:
    """Print a command and run it, with nothing on its standard input."""
    print("$", shlex.join(command), flush=True)
    return subprocess.run(command, stdin=subprocess.DEVNULL, **options)


def _run(python: Path, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=False)


def _install(python: str, *arguments: str) -> None:
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_ROOT_USER_ACTION": "ignore"}
    command = [python, "-m", "pip", "install", "--quiet", *arguments]
    show(command, check=True, env=os.environ | quiet)
