"""The images that tests run kernels in, made without a registry and kept as long as their recipe stays the same.

They are ordinary: Python, ipykernel and its kernelspec where `pip install ipykernel` puts them, and nothing of ours.

    kernel-provisioners/kernel:test      runs as root
    kernel-provisioners/kernel:nonroot   USER jovyan, 1000:100, with a home
    kernel-provisioners/kernel:nohome    USER homeless, 1001, whose home does not exist and cannot be made
    kernel-provisioners/kernel:noshell   has no shell
    kernel-provisioners/kernel:foreign   is for another architecture: its programs cannot run here
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
import platform
import shutil
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path

import services
from services import _machine
from services._engine import Engine, tar

NAME = "kernel-provisioners/kernel"
_SUITE = "bookworm"
_PACKAGES = ["python3", "python3-pip-whl", "procps"]
_INSTALL = [
    "install",
    "--quiet",
    "--no-cache-dir",
    "--break-system-packages",
    "--root-user-action=ignore",
    "ipykernel",
]
_UNUSED = [
    "var/cache/apt",
    "var/lib/apt/lists",
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
]
_CHANGES = ["ENV LANG=C.UTF-8", "CMD python3"]
# Where there is neither root nor Debian, but a registry to pull from.
_ELSEWHERE = """\
FROM python:3.11-slim-bookworm
RUN apt-get update && apt-get install --yes procps && pip install --no-cache-dir ipykernel
"""
_VARIANTS = {
    "nonroot": """\
RUN useradd --create-home --uid 1000 --gid users jovyan
USER jovyan
WORKDIR /home/jovyan
""",
    "nohome": """\
RUN useradd --no-create-home --home-dir /nonexistent --uid 1001 homeless
USER homeless
""",
    "noshell": """\
RUN ["python3", "-c", "import glob, os; [os.unlink(p) for p in glob.glob('/usr/bin/*sh')]"]
""",
}
_ARCHITECTURES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}
_MACHINES = {"amd64": 62, "arm64": 183}  # of ELF


def tags() -> list[str]:
    """Return the full names of all images."""
    return [f"{NAME}:{variant}" for variant in ("test", *_VARIANTS, "foreign")]


def are_there(engine: Engine) -> bool:
    """Return whether an engine has the images, by this recipe."""
    return all(engine.label(image, _LABEL) == RECIPE for image in tags())


def provide(engine: Engine) -> None:
    """Make those images that the engine does not have by this recipe."""
    if are_there(engine):
        return
    base = f"{NAME}:test"
    labels = f"LABEL {_LABEL}={RECIPE}"
    if services.can_bring_up():
        with open(root_filesystem(), "rb") as content:
            engine.import_image(base, content, [*_CHANGES, labels])
    else:
        engine.build(base, f"{_ELSEWHERE}{labels}\n")
    for variant, lines in _VARIANTS.items():
        # The label comes with the base, so that an image whose base has changed is seen as old.
        engine.build(f"{NAME}:{variant}", f"FROM {base}\n{lines}")
    here = _ARCHITECTURES[platform.machine().lower()]
    other = "amd64" if here == "arm64" else "arm64"
    files = {f"{name}/.empty": b"" for name in ("home", "root", "run", "tmp", "var")}
    files["etc/passwd"] = b"root:x:0:0:root:/root:/usr/bin/python3\n"
    programs = ("bin/sh", "usr/bin/python3", "usr/bin/python")
    files |= dict.fromkeys(programs, _program(_MACHINES[other]))
    engine.import_image(
        f"{NAME}:foreign", tar(files, 0o755), [*_CHANGES, labels], platform=f"linux/{other}"
    )


def root_filesystem() -> Path:
    """Return the tar of a small Debian with a kernel; it takes about a minute to make, once."""
    folder = _machine.folder("images")
    kept = folder / f"{_BASE}.tar"
    with _machine.lock(folder):
        if kept.exists():
            return kept
        for old in folder.glob("*.tar"):
            old.unlink()
        _machine.install("debootstrap")
        made = Path(tempfile.mkdtemp(dir=folder))
        try:
            root = made / "root"
            options = ["--variant=minbase", f"--include={','.join(_PACKAGES)}"]
            with open(folder / "debootstrap.log", "w") as log:
                _machine.run("debootstrap", *options, _SUITE, str(root), *_mirror(), stdout=log)
            _install_kernel(root)
            for name in _UNUSED:
                shutil.rmtree(root / name)
                (root / name).mkdir()
            shutil.rmtree(root / "dev")
            (root / "dev").mkdir()
            _machine.run("tar", "-C", str(root), "-cf", str(made / "tar"), ".")
            (made / "tar").rename(kept)
        finally:
            _machine.remove(made)
    return kept


def _install_kernel(root: Path) -> None:
    """Install ipykernel with the Python in there, whatever the one here is."""
    pip = next(root.glob("usr/share/python-wheels/pip-*.whl")).relative_to(root)
    # How this machine reaches package indexes, taken away again afterwards.
    names = ["/etc/resolv.conf", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt"]
    names += [os.environ.get(name, "") for name in ("PIP_CERT", "SSL_CERT_FILE", "PIP_CONFIG_FILE")]
    lent = {root / name.lstrip("/") for name in names if name and Path(name).is_file()}
    for path in lent:
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path("/", path.relative_to(root)), path)
    kept = ("PIP_", "http_proxy", "https_proxy", "no_proxy", "SSL_CERT_", "REQUESTS_CA_BUNDLE")
    environ = {name: value for name, value in os.environ.items() if name.startswith(kept)}
    environ.pop("PIP_FIND_LINKS", None)  # a folder of this machine
    environ["PATH"] = "/usr/local/bin:/usr/bin:/usr/sbin"
    python = ["chroot", str(root), "python3"]
    _machine.run(*python, f"/{pip}/pip", *_INSTALL, env=environ)
    for path in lent:
        path.unlink()
    # Most images have this name too, and kernelspecs use it.
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")


def _mirror() -> list[str]:
    """Return the mirror that this machine's apt uses, if it is a Debian's; else leave it to debootstrap."""
    query = ["apt-get", "indextargets", "--format", "$(ORIGIN) $(SUITE) $(REPO_URI)"]
    lines = _machine.run(*query, capture_output=True, stdout=None, text=True).stdout.splitlines()
    found = [line.split()[2] for line in lines if line.startswith("Debian ")]
    return [uri for uri in found if "security" not in uri][:1]


def _program(machine: int) -> bytes:
    """Return the start of a program for a processor."""
    identity = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    header = struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, 0x400000, 64, 0, 0, 64, 56, 0, 64, 0, 0)
    return identity + header


def _digest(ingredients: list[object], functions: list[Callable[..., object]]) -> str:
    sources = [inspect.getsource(function) for function in functions]
    return hashlib.sha256(json.dumps([ingredients, sources]).encode()).hexdigest()[:16]


_LABEL = "kernel-provisioners.recipe"
_BASE = _digest([_SUITE, _PACKAGES, _INSTALL, _UNUSED], [root_filesystem, _install_kernel])
RECIPE = _digest([_BASE, _CHANGES, _ELSEWHERE, _VARIANTS], [provide, _program])
"""Changes with what the images are made of, and so makes new ones."""
