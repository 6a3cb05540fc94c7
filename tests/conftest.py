"""The wheels of this repository, built once for all tests here."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import wheels

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it


@dataclass(frozen=True)
class Package:
    """One package of the repository."""

    name: str

    @property
    def distribution(self) -> str:
        return f"kernel-provisioner-{self.name}"

    @property
    def module(self) -> str:
        return self.distribution.replace("-", "_")

    @property
    def folder(self) -> Path:
        return wheels.ROOT / "packages" / self.name

    @property
    def source(self) -> Path:
        return self.folder / "src" / self.module

    @property
    def project(self) -> dict[str, Any]:
        return tomllib.loads((self.folder / "pyproject.toml").read_text())["project"]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give a test that takes a `package` each package, and one that takes a `backend` each but core."""
    if metafunc.definition.path.parent != Path(__file__).parent:
        return  # tests/jupyter has backends of another kind
    for argument, left_out in (("package", ()), ("backend", ("core",))):
        if argument in metafunc.fixturenames:
            names = [name for name in wheels.names() if name not in left_out]
            metafunc.parametrize(argument, [Package(name) for name in names], ids=names)


@pytest.fixture(scope="session")
def packages() -> list[Package]:
    return [Package(name) for name in wheels.names()]


@pytest.fixture(scope="session")
def root() -> Path:
    return wheels.ROOT


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the wheel of each package, by the package's name."""
    return wheels.build(wheels.names(), tmp_path_factory.mktemp("wheels"))
