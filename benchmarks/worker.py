"""Calls a function of this folder in a Python process of its own: `python worker.py module:function JSON`.

The function gets the JSON object as keyword arguments; what it returns is the last line of standard output.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

__all__ = ["call", "finish", "start"]


def start(function: str, **arguments: Any) -> subprocess.Popen[str]:
    """Start a worker; `finish` takes what it returns."""
    return subprocess.Popen(
        [sys.executable, str(Path(__file__)), function, json.dumps(arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(worker: subprocess.Popen[str], timeout: float = 300) -> Any:
    """Wait for a worker (`timeout` in seconds) and return what its function returned."""
    try:
        output, _ = worker.communicate(timeout=timeout)
    except BaseException:
        worker.kill()
        worker.wait()
        raise
    if worker.returncode:
        raise RuntimeError(f"A worker ended with {worker.returncode}; its error is above.")
    return json.loads(output.splitlines()[-1])


def call(function: str, **arguments: Any) -> Any:
    """Call a function in a process of its own."""
    return finish(start(function, **arguments))


if __name__ == "__main__":
    module, _, name = sys.argv[1].partition(":")
    returned = getattr(importlib.import_module(module), name)(**json.loads(sys.argv[2]))
    print(json.dumps(returned))
