"""An author outside of this repository: installs our wheels, subclasses core, proves it by the suite."""

import shutil
import subprocess
import sys
import venv
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from kernel_provisioner_core.conformance import select_checks

OUTSIDER = Path(__file__).parent / "third_party"


@pytest.fixture
def outside(tmp_path, built):
    """Return a copy of the outsider's folder, and the Python of an environment that has it."""
    folder = tmp_path / "nice-provisioner"
    shutil.copytree(OUTSIDER, folder, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    venv.create(tmp_path / "venv", symlinks=True)
    python = tmp_path / "venv" / "bin" / "python"
    core = f"kernel-provisioner-core[conformance] @ {built['core'].as_uri()}"
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "-qq"]
    subprocess.run([*install, str(folder), core], check=True, timeout=240)
    return folder, python


@pytest.mark.timeout(900)
def test_an_outsiders_provisioner_passes_the_suite(outside):
    folder, python = outside
    run = subprocess.run(
        [python, "-m", "pytest", "--junit-xml=results.xml"],
        cwd=folder,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    cases = list(ElementTree.parse(folder / "results.xml").iter("testcase"))
    seen = " ".join(case.get("name", "") for case in cases)
    assert [check.id for check in select_checks() if check.id not in seen] == []
    passed = [case for case in cases if case.find("skipped") is None]
    assert len(passed) > len(cases) / 2
