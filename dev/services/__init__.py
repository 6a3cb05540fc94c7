"""The services that tests need: a container engine, an ssh server, a cluster.

One module here is one service, and its name is the word that tests (`@pytest.mark.needs("...")`) and
KERNEL_PROVISIONERS_REQUIRE use for it; a module with an underscore is what they share. Each module has the
same four functions and two constants:

    HINT: str                    how somebody provides the service who is not root on Debian, as one sentence
    NEEDED_BY: frozenset[str]    the parts of names of tox environments (`docker` of py312-docker) that use it
    def find() -> bool           whether the service answers, as this environment describes it
    def running() -> bool        whether what `up` started is running, also if this environment does not tell
    def up() -> dict[str, str]   install and start it, as root on Debian; return what belongs into the environment
    def down() -> None           end what `up` started; silent if there is nothing

`find` is called in each test run, also without any service: it is quick, and quiet when nothing
answers. `up` may be called again, listens on loopback only, asks nothing, and leaves nothing running if
it fails. Only the standard library is there for these modules.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from pathlib import Path
from typing import Protocol, cast


class Service(Protocol):
    """What a module of this folder looks like."""

    HINT: str
    NEEDED_BY: frozenset[str]

    def find(self) -> bool:
        """Return whether the service answers."""

    def running(self) -> bool:
        """Return whether what `up` started is running."""

    def up(self) -> dict[str, str]:
        """Install and start the service; return the variables that lead to it."""

    def down(self) -> None:
        """End what `up` started."""


def names() -> list[str]:
    """Return the names of the services that there are."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return sorted(name for name in found if not name.startswith("_"))


def load(name: str) -> Service:
    """Return the service of that name."""
    if name not in names():
        raise LookupError(
            f"no service is called {name!r}; there are: {', '.join(names()) or 'none'}"
        )
    return cast(Service, importlib.import_module(f"{__name__}.{name}"))


def needed(factors: set[str]) -> list[str]:
    """Return the names of the services that tox environments with these factors in their names use."""
    return [name for name in names() if load(name).NEEDED_BY & factors]


def can_bring_up() -> bool:
    """Return whether services can be installed and started here: as root on Debian."""
    return hasattr(os, "geteuid") and os.geteuid() == 0 and Path("/etc/debian_version").exists()


def required() -> set[str]:
    """Return the words of KERNEL_PROVISIONERS_REQUIRE (CONTRIBUTING.md says what they mean)."""
    words = os.environ.get("KERNEL_PROVISIONERS_REQUIRE", "").split(",")
    return {word.strip() for word in words} - {""}
