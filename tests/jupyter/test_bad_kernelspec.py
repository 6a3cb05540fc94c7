"""Kernelspecs that cannot work: a clear error, nothing left behind, and the server goes on."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import psutil
import pytest
from backends import Backend
from frontend import Frontend
from server_process import Directories, Server
from tornado.httpclient import HTTPClientError


@pytest.fixture(autouse=True)
async def _the_server_is_unharmed(frontend: Frontend, server: Server) -> AsyncIterator[None]:
    """After each test here the same server starts a good kernel, and nothing is left of the bad one."""
    files = set(server.runtime_dir.rglob("*"))
    kernels = await frontend.kernels()
    children = psutil.Process(server.process.pid).children()
    yield
    assert set(server.runtime_dir.rglob("*")) - files <= {
        server.runtime_dir / "kernel-provisioners"
    }
    assert await frontend.kernels() == kernels
    assert psutil.Process(server.process.pid).children() == children
    async with frontend.kernel("good") as kernel_id:
        assert (await frontend.execute(kernel_id, "print(6 * 7)")).stdout == "42\n"


async def refused(frontend: Frontend, name: str) -> str:
    """Start a kernel in vain, and return what the server's log says about it."""
    since = frontend.server.log.position()
    answer = await frontend.request("POST", "kernels", {"name": name})
    assert answer.status == 500, answer
    # The answer itself says no more than "Unhandled error", whatever the exception: jupyter_server keeps it to its log.
    frontend.server.log.wait_for(r"wrote error:|500 POST", since=since)
    return frontend.server.log.text[since:]


async def test_an_unknown_option_is_refused_with_the_nearest_one(
    frontend: Frontend, server: Server, backend: Backend
) -> None:
    server.write_spec("bad", backend.kernel_json(config={"working_dri": "/tmp"}))
    log = await refused(frontend, "bad")
    assert "has no option 'working_dri'. Did you mean 'working_dir'?" in log


async def test_with_pending_kernels_the_front_end_gets_the_message_too(
    directories: Directories,
    start_server: Callable[..., Server],
    connect: Callable[[Server], Frontend],
    backend: Backend,
) -> None:
    directories.write_spec("bad", backend.kernel_json(config={"working_dri": "/tmp"}))
    frontend = connect(start_server("--AsyncMultiKernelManager.use_pending_kernels=True"))
    kernel_id = await frontend.start("bad")
    with pytest.raises(HTTPClientError, match="500"):
        async with frontend.channels(kernel_id):
            pass
    model = (await frontend.kernels())[kernel_id]
    assert model["execution_state"] == "dead"
    assert "has no option 'working_dri'. Did you mean 'working_dir'?" in model["reason"]
    await frontend.shut_down(kernel_id)
    assert list(directories.runtime.glob("kernel-*")) == []


async def test_an_option_of_the_wrong_type_is_refused(
    frontend: Frontend, server: Server, backend: Backend
) -> None:
    server.write_spec("bad", backend.kernel_json(config={"env": "NAME=value"}))
    log = await refused(frontend, "bad")
    assert "has a wrong value: The 'env' trait" in log
    assert "jupyter provisioner show" in log


async def test_a_kernelspec_of_a_provisioner_that_is_not_installed_is_hidden_and_explained(
    frontend: Frontend, server: Server, backend: Backend
) -> None:
    server.write_spec("bad", backend.kernel_json(provisioner="kernel-provisioner-not-there"))
    since = server.log.position()
    specs = (await frontend.request("GET", "kernelspecs")).json["kernelspecs"]
    assert "good" in specs
    assert "bad" not in specs
    server.log.wait_for("kernel-provisioner-not-there.*not available", since=since)
    answer = await frontend.request("POST", "kernels", {"name": "bad"})
    assert answer.status >= 400


@pytest.mark.claims("server-commands")
async def test_a_missing_command_is_named_with_the_path(
    frontend: Frontend, server: Server, backend: Backend
) -> None:
    server.write_spec("bad", backend.kernel_json(argv=["no-such-kernel", "{connection_file}"]))
    log = await refused(frontend, "bad")
    assert "The kernel's command 'no-such-kernel' does not exist on the PATH '" in log
    assert "Correct `argv` in kernel.json" in log
    assert server.token not in log


@pytest.mark.claims("server-commands")
async def test_a_missing_working_directory_is_named(
    frontend: Frontend, server: Server, backend: Backend
) -> None:
    server.write_spec("bad", backend.kernel_json(config={"working_dir": "/no/such/folder"}))
    assert "working directory '/no/such/folder' does not exist" in await refused(frontend, "bad")


@pytest.mark.claims("output")
async def test_a_kernel_that_exits_at_once_leaves_its_last_output_in_the_log(
    frontend: Frontend, server: Server, backend: Backend
) -> None:
    command = ["sh", "-c", "echo no licence found >&2; exit 3", "sh", "{connection_file}"]
    server.write_spec("bad", backend.kernel_json(argv=command, config={"capture_output": True}))
    since = server.log.position()
    async with frontend.kernel("bad") as kernel_id:
        server.log.wait_for(
            rf"Kernel {kernel_id}: exited with code 3\. Its last output:\s+no licence found",
            since=since,
        )
        assert (await frontend.kernels())[kernel_id]["reason"] == "exited with code 3"


async def test_a_truncated_kernel_json_hides_its_own_kernelspec_only(
    frontend: Frontend, server: Server, backend: Backend
) -> None:
    server.write_spec("bad", json.dumps(backend.kernel_json())[:-20])
    specs = (await frontend.request("GET", "kernelspecs")).json["kernelspecs"]
    assert "good" in specs
    assert "bad" not in specs
    answer = await frontend.request("POST", "kernels", {"name": "bad"})
    assert answer.status >= 400


@pytest.fixture
def small_disk(directories: Directories) -> Iterator[Path]:
    """Jupyter's runtime directory on a file system of 256 KiB."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a small file system")
    folder = directories.runtime
    command = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=0700", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"no small file system can be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.claims("server-files")
async def test_a_full_disk_is_named_and_a_kernel_starts_once_there_is_room(
    small_disk: Path,
    start_server: Callable[..., Server],
    connect: Callable[[Server], Frontend],
) -> None:
    frontend = connect(start_server())
    filling = small_disk / "filling"
    with filling.open("wb", buffering=0) as file:
        try:
            while file.write(b"x" * 4096):
                pass
        except OSError:
            pass
    before = sorted(small_disk.rglob("*"))
    log = await refused(frontend, "good")
    assert "cannot be written: No space left on device. Free space on that file system" in log
    assert sorted(small_disk.rglob("*")) == before
    filling.unlink()
    async with frontend.kernel("good") as kernel_id:
        assert (await frontend.execute(kernel_id, "print(6 * 7)")).stdout == "42\n"


@pytest.mark.claims("server-files")
async def test_a_read_only_runtime_directory_is_named_and_a_kernel_starts_once_it_is_writable(
    small_disk: Path,
    start_server: Callable[..., Server],
    connect: Callable[[Server], Frontend],
) -> None:
    frontend = connect(start_server())
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    log = await refused(frontend, "good")
    assert "cannot be written: Read-only file system." in log
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    async with frontend.kernel("good") as kernel_id:
        assert (await frontend.execute(kernel_id, "print(6 * 7)")).stdout == "42\n"
