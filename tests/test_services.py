"""What happens to tests whose service is not there (conftest.py and dev/services)."""

import os
import shutil
import subprocess
import sys

import pytest

import services

SERVICE = """
HINT = "Plug one in."
def find(): return {there}
"""
TEST = """
import pytest

@pytest.mark.needs("gadget")
def test_uses_the_gadget(): pass
"""


@pytest.fixture
def repository(tmp_path, root):
    """Return a copy of this repository's settings, with one test that needs a gadget."""
    shutil.copy(root / "conftest.py", tmp_path)
    shutil.copy(root / "pyproject.toml", tmp_path)
    (tmp_path / "dev" / "services").mkdir(parents=True)
    shutil.copy(root / "dev" / "services" / "__init__.py", tmp_path / "dev" / "services")
    (tmp_path / "test_gadget.py").write_text(TEST)
    return tmp_path


def outcome(repository, *, there, required=""):
    (repository / "dev" / "services" / "gadget.py").write_text(SERVICE.format(there=there))
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "test_gadget.py"],
        cwd=repository,
        env=os.environ | {"KERNEL_PROVISIONERS_REQUIRE": required, "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    return run.stdout


def test_a_test_runs_where_its_service_is(repository):
    assert "1 passed" in outcome(repository, there=True, required="gadget")


def test_a_test_is_skipped_where_its_service_is_not_and_the_reader_is_told_what_to_do(repository):
    printed = outcome(repository, there=False, required="something else")
    assert "1 skipped" in printed
    assert "needs gadget: Plug one in." in printed


def test_a_test_fails_where_its_service_was_promised(repository):
    printed = outcome(repository, there=False, required="local, gadget")
    assert "1 failed" in printed or "1 error" in printed
    assert "KERNEL_PROVISIONERS_REQUIRE names gadget" in printed


@pytest.mark.parametrize("name", services.names())
def test_a_service_has_what_services_have(name):
    service = services.load(name)
    assert service.HINT.endswith(".")
    assert service.NEEDED_BY
    assert all(callable(getattr(service, verb)) for verb in ("find", "running", "up", "down"))


def test_a_service_is_set_up_only_for_environments_that_use_it():
    assert "docker" in services.needed({"py312", "docker"})
    assert services.needed({"lint", "py312", "core"}) == []
