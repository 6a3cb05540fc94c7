"""Build packages of this repository and install them, as wheels, into the Python that runs this.

    python dev/wheels.py local core[conformance]
    python dev/wheels.py all core[cli,conformance]

What is tested is so what a user would get: the built wheel, with the dependencies that it declares. Siblings come
from here as well, never from an index. pip and the standard library are all that it needs.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PREFIX = "kernel-provisioner-"


def names() -> list[str]:
    """Return the names of all packages of the repository, core first."""
    found = {path.parent.name for path in ROOT.glob("packages/*/pyproject.toml")}
    return ["core", *sorted(found - {"core"})]


def build(packages: list[str], folder: Path) -> dict[str, Path]:
    """Build the wheels of the packages into the folder; return the wheel of each."""
    sources = [str(ROOT / "packages" / name) for name in packages]
    _pip("wheel", "-qq", "--no-deps", "--wheel-dir", str(folder), *sources)
    return {name: next(folder.glob(f"{_underscored(name)}-*.whl")) for name in packages}


def install(requirements: list[str], python: str = sys.executable) -> None:
    """Install packages, each given as its name (or `all`) and perhaps extras, into an interpreter's environment."""
    wanted = dict.fromkeys(names(), "") if "all" in requirements else {"core": ""}
    wanted.update(_parse(requirement) for requirement in requirements if requirement != "all")
    with tempfile.TemporaryDirectory() as folder:
        wheels = build(list(wanted), Path(folder))
        # pip leaves an installed version alone if the wheel has the same number.
        _pip(
            "--python",
            python,
            "uninstall",
            "-qq",
            "--yes",
            *(PREFIX + name for name in names()),
        )
        _pip(
            "--python",
            python,
            "install",
            "-qq",
            *(f"{PREFIX}{n}{extras} @ {wheels[n].as_uri()}" for n, extras in wanted.items()),
        )


def _parse(requirement: str) -> tuple[str, str]:
    match = re.fullmatch(r"([a-z0-9]+)(\[[a-z,]+\])?", requirement)
    if match is None or match[1] not in names():
        sys.exit(
            f"{requirement!r} is no package of this repository; there are: {', '.join(names())}"
        )
    return match[1], match[2] or ""


def _underscored(name: str) -> str:
    return (PREFIX + name).replace("-", "_")


def _pip(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", "pip", *arguments], check=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    install(sys.argv[1:])
