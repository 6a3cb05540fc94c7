"""The test images as one archive of the form that `docker save` writes; no engine and no registry is needed.

They are those of services/_image.py, of the same names: the layer with Debian and the kernel is the same, and the
variants are small layers on top of it.
"""

from __future__ import annotations

import hashlib
import io
import json
import platform
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from services import _image, _machine

_ENVIRONMENT = [
    "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG=C.UTF-8",
]
_SHELLS = ("sh", "dash", "bash", "rbash")
_WHITEOUT = ".wh."
_SERVER = ["importlib-metadata", "jupyter-server", "kubernetes"]
_FOR_DEBIANS_PYTHON = [
    "--python-version=3.11",
    "--implementation=cp",
    "--only-binary=:all:",
    f"--platform=manylinux2014_{platform.machine()}",
    f"--platform=manylinux_2_28_{platform.machine()}",
]


def write(path: Path, root_filesystem: Path) -> None:
    """Write the archive.

    Args:
        path: Where to; it appears once it is whole.
        root_filesystem: The tar with the base layer.
    """
    with tarfile.open(root_filesystem) as base:
        accounts = base.extractfile("./etc/passwd")
        assert accounts is not None
        passwd = accounts.read()
    variants: dict[str, tuple[bytes | None, dict[str, Any]]] = {
        "test": (None, {}),
        "nonroot": (_nonroot_layer(passwd), {"User": "1000:100", "WorkingDir": "/home/jovyan"}),
        "noshell": (_noshell_layer(), {}),
    }
    server = f"docker.io/{_image.NAME.rpartition('/')[0]}/server:test"
    names = {variant: f"docker.io/{_image.NAME}:{variant}" for variant in variants} | {
        "server": server
    }
    variants["server"] = _server_layer(), {}
    beside = path.with_suffix(".part")
    base_digest = _digest_of(root_filesystem)
    manifest = []
    with tarfile.open(beside, "w") as archive:
        archive.add(root_filesystem, f"{base_digest}/layer.tar", filter=_anonymous)
        for variant, (layer, settings) in variants.items():
            digests = [base_digest]
            if layer is not None:
                digests.append(hashlib.sha256(layer).hexdigest())
                _add(archive, f"{digests[-1]}/layer.tar", layer)
            config = json.dumps(_config(digests, settings)).encode()
            name = f"{hashlib.sha256(config).hexdigest()}.json"
            _add(archive, name, config)
            manifest.append(
                {
                    "Config": name,
                    "RepoTags": [names[variant]],
                    "Layers": [f"{digest}/layer.tar" for digest in digests],
                }
            )
        _add(archive, "manifest.json", json.dumps(manifest).encode())
    beside.rename(path)


def _nonroot_layer(passwd: bytes) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as layer:
        _add(layer, "etc/passwd", passwd + b"jovyan:x:1000:100::/home/jovyan:/bin/sh\n")
        home = tarfile.TarInfo("home/jovyan")
        home.type, home.mode, home.uid, home.gid = tarfile.DIRTYPE, 0o755, 1000, 100
        layer.addfile(home)
    return made.getvalue()


def _noshell_layer() -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as layer:
        for shell in _SHELLS:
            _add(layer, f"usr/bin/{_WHITEOUT}{shell}", b"")
    return made.getvalue()


def _server_layer() -> bytes:
    """Return a layer with what a Jupyter Server in the cluster needs beside the kernel's own packages."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder, "opt", "server")
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile"]
        command += ["--disable-pip-version-check", "--target", str(target), *_FOR_DEBIANS_PYTHON]
        _machine.run(*command, *_SERVER)
        made = io.BytesIO()
        with tarfile.open(fileobj=made, mode="w") as layer:
            layer.add(Path(folder, "opt"), "opt", filter=_anonymous)
        return made.getvalue()


def _config(digests: list[str], settings: dict[str, Any]) -> dict[str, Any]:
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]
    return {
        "architecture": architecture,
        "os": "linux",
        "created": "1970-01-01T00:00:00Z",
        "config": {"Env": _ENVIRONMENT, "Cmd": ["python3"], **settings},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}" for digest in digests]},
        "history": [{"created": "1970-01-01T00:00:00Z"} for _ in digests],
    }


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))


def _anonymous(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = ""
    return member


def _digest_of(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
