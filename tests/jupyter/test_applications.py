"""Jupyter's other applications: nbclient, papermill, `jupyter console`, `jupyter run`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from backends import Backend
from nbformat.v4 import new_code_cell, new_notebook
from server_process import LIMIT, Directories

from kernel_provisioner_core import KernelProvisionerFactory

# The kernel looks for its own record: only our provisioners write one.
WHO_RUNS_THIS_KERNEL = """\
import json, os, pathlib
records = pathlib.Path(os.environ["JUPYTER_RUNTIME_DIR"], "kernel-provisioners").glob("*.json")
print([json.loads(record.read_text())["provisioner"] for record in records])
"""


@pytest.fixture
def environment(backend: Backend, directories: Directories) -> dict[str, str]:
    """The environment of an application; its kernelspec `plain` gets our provisioner.

    Where the backend can, kernel.json names no provisioner, and the environment makes ours the default.
    """
    kernel_json = backend.kernel_json()
    environment = directories.environment
    if "drop-in" in backend.claims:
        environment["JUPYTER_DEFAULT_PROVISIONER_NAME"] = backend.provisioner
        del kernel_json["metadata"]
    directories.write_spec("plain", kernel_json)
    return environment


@pytest.fixture
def run(environment: dict[str, str], directories: Directories) -> Any:
    """Run an application to its end and return what it did; no kernel of its is left then."""

    def run(*arguments: str, text: str = "") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", *arguments],
            env=environment,
            cwd=directories.notebooks,
            input=text,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )

    yield run
    assert list(directories.runtime.glob("kernel-*.json")) == []
    assert list((directories.runtime / "kernel-provisioners").glob("*")) == []


def write_notebook(directories: Directories, *cells: str) -> Path:
    path = directories.notebooks / "notebook.ipynb"
    notebook = new_notebook(
        cells=[new_code_cell(source) for source in cells],
        metadata={"kernelspec": {"name": "plain", "display_name": "Plain", "language": "python"}},
    )
    nbformat.write(notebook, path)
    return path


def printed(path: Path) -> list[str]:
    """Return what each cell of an executed notebook has printed."""
    cells = nbformat.read(path, as_version=4).cells
    return ["".join(o.get("text", "") for o in cell.outputs) for cell in cells]


def expected_class(backend: Backend) -> str:
    found = KernelProvisionerFactory.instance().load_provisioner_class(backend.provisioner)
    return f"{found.__module__}:{found.__qualname__}"


@pytest.mark.claims("drop-in")
def test_nbclient_executes_a_notebook_by_our_provisioner(
    run: Any, directories: Directories, backend: Backend
) -> None:
    path = write_notebook(directories, "kept = 6", "print(kept * 7)", WHO_RUNS_THIS_KERNEL)
    done = run("jupyter", "execute", "--inplace", str(path))
    assert done.returncode == 0, done.stderr
    assert printed(path) == ["", "42\n", f"['{expected_class(backend)}']\n"]


def test_nbclient_stops_at_an_error_and_shows_it(run: Any, directories: Directories) -> None:
    path = write_notebook(directories, "print('begun')", "1 / 0", "print('never')")
    done = run("jupyter", "execute", "--inplace", str(path))
    assert done.returncode != 0
    assert "ZeroDivisionError" in done.stderr


def test_nbclient_goes_on_after_an_error_where_that_is_allowed(
    run: Any, directories: Directories
) -> None:
    path = write_notebook(directories, "1 / 0", "print('goes on')")
    done = run("jupyter", "execute", "--inplace", "--allow-errors", str(path))
    assert done.returncode == 0, done.stderr
    assert printed(path)[1] == "goes on\n"


def test_nbclient_ends_a_cell_that_takes_too_long(run: Any, directories: Directories) -> None:
    path = write_notebook(directories, "import time; time.sleep(600)")
    done = run("jupyter", "execute", "--timeout=1", str(path))
    assert done.returncode != 0
    assert "CellTimeoutError" in done.stderr


def test_nbclient_reports_a_kernel_that_dies(run: Any, directories: Directories) -> None:
    path = write_notebook(directories, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    done = run("jupyter", "execute", str(path))
    assert done.returncode != 0
    assert "DeadKernelError" in done.stderr


@pytest.mark.claims("drop-in")
def test_papermill_executes_a_notebook_by_our_provisioner(
    run: Any, directories: Directories, backend: Backend
) -> None:
    path = write_notebook(directories, "print(6 * 7)", WHO_RUNS_THIS_KERNEL)
    done = run("papermill", str(path), "out.ipynb")
    assert done.returncode == 0, done.stderr
    out = directories.notebooks / "out.ipynb"
    assert printed(out) == ["42\n", f"['{expected_class(backend)}']\n"]


def test_papermill_stops_at_an_error_and_keeps_it_in_the_notebook(
    run: Any, directories: Directories
) -> None:
    path = write_notebook(directories, "print('begun')", "1 / 0", "print('never')")
    done = run("papermill", str(path), "out.ipynb")
    assert done.returncode != 0
    assert "ZeroDivisionError" in done.stderr
    text = (directories.notebooks / "out.ipynb").read_text()
    assert "ZeroDivisionError" in text
    assert "never\\n" not in text


@pytest.mark.claims("drop-in")
def test_the_console_executes_by_our_provisioner(run: Any, backend: Backend) -> None:
    # The console waits for the end of a cell on a channel of whose connection it has not made sure: a first
    # cell that is over too early hangs it for good, with every provisioner.
    lines = [
        "import time; time.sleep(2)",
        "6 * 7",
        "kept = 1; print('kept', kept)",
        f"exec({WHO_RUNS_THIS_KERNEL!r})",
        "1 / 0",
    ]
    done = run(
        *("jupyter", "console", "--simple-prompt", "--kernel=plain"),
        "--JupyterConsoleApp.confirm_exit=False",
        text="\n".join([*lines, "exit", ""]),
    )
    assert done.returncode == 0, done.stderr
    assert "42" in done.stdout
    assert "kept 1" in done.stdout
    assert expected_class(backend) in done.stdout
    assert "ZeroDivisionError" in done.stdout + done.stderr
    # The console ends its kernel past its manager, so nobody has told the provisioner: the record is for `reap`.
    reaped = run("jupyter", "provisioner", "reap")
    assert reaped.returncode == 0, reaped.stderr


@pytest.mark.claims("drop-in")
def test_jupyter_run_executes_by_our_provisioner(run: Any, backend: Backend) -> None:
    done = run("jupyter", "run", "--kernel=plain", text=f"print(6 * 7)\n{WHO_RUNS_THIS_KERNEL}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"42\n['{expected_class(backend)}']\n"


def test_jupyter_run_fails_with_the_code(run: Any) -> None:
    done = run("jupyter", "run", "--kernel=plain", text="1 / 0")
    assert done.returncode != 0
    assert "ZeroDivisionError" in done.stdout + done.stderr
