"""File systems that are full or read-only, for real."""

import contextlib
import os
import subprocess
import sys

import pytest

needs_mounts = "mounting a file system needs root on Linux"


@pytest.fixture
def mount(tmp_path):
    """Mount a small tmpfs; return a function from its options to its directory."""
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip(needs_mounts)
    mounted = []

    def mount(options: str):
        where = tmp_path / f"mount-{len(mounted)}"
        where.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(where)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"{needs_mounts}: {done.stderr.strip()}")
        mounted.append(where)
        return where

    yield mount
    for where in mounted:
        subprocess.run(["umount", str(where)], check=True)


@pytest.fixture
def full_disk(mount):
    """Return a directory on a file system without a free byte."""
    where = mount("size=64k")
    with (where / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)
    return where


@pytest.fixture
def read_only_dir(mount):
    """Return a directory on a read-only file system."""
    return mount("size=64k,ro")
