"""What `run` runs: a text, a file of code, a notebook."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kernel_provisioner_core.errors import ConfigurationError

__all__ = ["Cell", "read_cells"]


@dataclass(frozen=True)
class Cell:
    """A piece of code to execute.

    Args:
        code: The code.
        may_raise: Whether the run goes on if it raises (a notebook's cell with the tag `raises-exception`).
    """

    code: str
    may_raise: bool = False


def read_cells(file: str) -> list[Cell]:
    """Read a file of code, the code cells of a notebook (`.ipynb`), or stdin (`-`).

    Raises:
        ConfigurationError: It cannot be read, or is no notebook.
    """
    if file == "-":
        return [Cell(sys.stdin.read())]
    try:
        text = Path(file).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ConfigurationError(
            f"There is no file {file!r}.", hint="Give code itself with -c, or - for stdin."
        ) from error
    except OSError as error:
        raise ConfigurationError(f"{file!r} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{file!r} is not UTF-8 text.") from error
    if not file.endswith(".ipynb"):
        return [Cell(text)]
    try:
        return _cells_of(json.loads(text))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigurationError(
            f"{file!r} is not a notebook of format 4: {error}.",
            hint="Open and save it in Jupyter, which upgrades older formats.",
        ) from error


def _cells_of(notebook: Any) -> list[Cell]:
    if notebook["nbformat"] != 4:
        raise ValueError(f"it has format {notebook['nbformat']!r}")
    return [
        Cell(
            "".join(cell["source"]), "raises-exception" in cell.get("metadata", {}).get("tags", [])
        )
        for cell in notebook["cells"]
        if cell["cell_type"] == "code" and "".join(cell["source"]).strip()
    ]
