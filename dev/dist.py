"""Build what would be uploaded, check it, and use each wheel in an empty environment.

    python dev/dist.py [FOLDER]

Needs build, check-wheel-contents and twine (dependency group `dist`).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import wheels
from environment import make_environment, show

ROOT = Path(__file__).resolve().parent.parent
GROUP = "jupyter_client.kernel_provisioners"
# Run with no more than what the wheel brings.
LOAD = f"""
import sys
from importlib.metadata import distribution
name = sys.argv[1]
__import__(name.replace("-", "_"))
for entry_point in distribution(name).entry_points:
    if entry_point.group == {GROUP!r}:
        print(entry_point.name, entry_point.load())
"""


def main(folder: Path) -> None:
    """Build into the folder, which is emptied first; raise CalledProcessError at the first fault."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in wheels.names():
        source = str(ROOT / "packages" / name)
        show([sys.executable, "-m", "build", "--outdir", str(folder), source], check=True)
    built = sorted(map(str, folder.iterdir()))
    show([sys.executable, "-m", "twine", "check", "--strict", *built], check=True)
    made = [path for path in built if path.endswith(".whl")]
    show(["check-wheel-contents", *made], check=True)
    for name in wheels.names():
        _use(f"{wheels.PREFIX}{name}", folder)


def _use(distribution: str, folder: Path) -> None:
    """Install a wheel, with core's, into an empty environment, and load what it offers."""
    names = {distribution, f"{wheels.PREFIX}core"}
    found = [next(folder.glob(f"{name.replace('-', '_')}-*.whl")) for name in sorted(names)]
    with tempfile.TemporaryDirectory() as empty:
        scripts = make_environment(Path(empty) / "venv", *map(str, found))
        python = str(scripts / "python")
        subprocess.run([python, "-I", "-c", LOAD, distribution], check=True)
        show([sys.executable, "-m", "pip", "--python", python, "check"], check=True)


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else ROOT / "dist").resolve())
    except subprocess.CalledProcessError as error:
        sys.exit(error.returncode)
