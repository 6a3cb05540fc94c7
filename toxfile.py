"""Lets tox find interpreters that are on the machine but not on PATH.

pyenv keeps them behind shims that fail unless a version is switched on, and uv keeps them in a folder of
its own. tox loads this file by itself; what PATH offers is found as ever.
"""

import os
import re
from pathlib import Path

_FOLDERS = (
    Path(os.environ.get("PYENV_ROOT", "~/.pyenv")).expanduser() / "versions",
    Path("~/.local/share/uv/python").expanduser(),
)


def _interpreters() -> list[str]:
    found = (path for folder in _FOLDERS for path in folder.glob("*/bin/python3.*"))
    return sorted(str(path) for path in found if re.fullmatch(r"python3\.\d+", path.name))


if "TOX_DISCOVER" not in os.environ:
    os.environ["TOX_DISCOVER"] = "\n".join(_interpreters())
