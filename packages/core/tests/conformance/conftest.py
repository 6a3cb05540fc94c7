"""Make the provisioners of this folder importable, also in the fresh processes of the suite."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "trial(name, *arguments): the function of trial.py that the test wants run"
    )
