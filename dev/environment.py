"""Virtual environments by nothing but Python and its pip, and commands that are shown as they run."""

from __future__ import annotations

import importlib.util
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

WINDOWS = sys.platform == "win32"


def make_environment(folder: Path, *requirements: str) -> Path:
    """Make a virtual environment, or bring it up to date; return the folder of its scripts.

    Debian's venv cannot put pip into an environment, and its pip refuses to install outside of one. Used together they
    work: the environment is made without pip, and the pip that is there installs into it.
    """
    scripts = folder / ("Scripts" if WINDOWS else "bin")
    python = scripts / ("python.exe" if WINDOWS else "python")
    has_pip = importlib.util.find_spec("pip") is not None
    if not python.exists():
        options = ["--without-pip"] if has_pip else []
        show([sys.executable, "-m", "venv", *options, str(folder)], check=True)
    pip = ["-m", "pip", "--python", str(python)] if has_pip else ["-m", "pip"]
    install = [sys.executable if has_pip else str(python), *pip, "install", "--quiet"]
    show([*install, "--disable-pip-version-check", *requirements], check=True)
    return scripts


def show(command: list[str], **options: Any) -> subprocess.CompletedProcess[Any]:
    """Print a command and run it, with nothing on its standard input."""
    print("$", shlex.join(command), flush=True)
    return subprocess.run(command, stdin=subprocess.DEVNULL, **options)
