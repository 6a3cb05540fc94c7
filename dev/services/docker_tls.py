"""A Docker engine behind TLS on a TCP port, with the images that tests run kernels in.

KERNEL_PROVISIONERS_DOCKER_TLS_HOST and KERNEL_PROVISIONERS_DOCKER_TLS_CERT_PATH lead to it; they mean what
DOCKER_HOST and DOCKER_CERT_PATH do. Where none is given, it is the engine of our own (docker.py).
"""

from __future__ import annotations

import os
from pathlib import Path

from services import docker
from services._engine import Engine

HINT = (
    "Set KERNEL_PROVISIONERS_DOCKER_TLS_HOST and KERNEL_PROVISIONERS_DOCKER_TLS_CERT_PATH to what DOCKER_HOST "
    "and DOCKER_CERT_PATH are for an engine of yours that listens with TLS."
)
NEEDED_BY = frozenset({"docker"})
_NAMES = ("KERNEL_PROVISIONERS_DOCKER_TLS_HOST", "KERNEL_PROVISIONERS_DOCKER_TLS_CERT_PATH")


def find() -> bool:
    """Return whether the engine answers a client with the certificates."""
    host, certificates = (os.environ.get(name) for name in _NAMES)
    return bool(host and certificates) and Engine(str(host), Path(str(certificates))).answers()


def running() -> bool:
    """Return whether an engine of our own is there."""
    return docker.running()


def up() -> dict[str, str]:
    """Start the engine of our own, or find it running."""
    environ = docker.start()
    return {name: environ[name] for name in _NAMES}


def down() -> None:
    """End the engine of our own."""
    docker.down()
