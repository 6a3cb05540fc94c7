"""The kernel managers of jupyter_client, blocking and asynchronous, one kernel and many."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from backends import Backend, Instance
from jupyter_client import AsyncKernelManager, KernelManager, provisioning
from jupyter_client.manager import run_kernel, start_new_async_kernel, start_new_kernel
from jupyter_client.multikernelmanager import AsyncMultiKernelManager, MultiKernelManager
from server_process import LIMIT, Directories

from kernel_provisioner_core import KernelProvisionerFactory
from kernel_provisioner_core.records import read_records


@pytest.fixture
def kernel_name(
    backend: Backend, directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The kernelspec for a manager in this process.

    Where the backend can, its kernel.json names no provisioner, and the environment makes ours the default.
    """
    for name, value in directories.variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("PYTEST_CURRENT_TEST", raising=False)
    kernel_json = backend.kernel_json()
    if "drop-in" in backend.claims:
        monkeypatch.setenv("JUPYTER_DEFAULT_PROVISIONER_NAME", backend.provisioner)
        del kernel_json["metadata"]
    provisioning.KernelProvisionerFactory.clear_instance()  # it keeps the default that it was made with
    yield directories.write_spec("plain", kernel_json)
    provisioning.KernelProvisionerFactory.clear_instance()


class Watched:
    """A manager's kernel, and what the outside has seen of it."""

    def __init__(self, manager: Any, backend: Backend) -> None:
        wanted = KernelProvisionerFactory.instance().load_provisioner_class(backend.provisioner)
        assert type(manager.provisioner) is wanted
        assert manager.kernel_id in {record.kernel_id for record in read_records()}
        self.manager = manager
        self.connection_file = manager.connection_file
        self._backend = backend
        self.instances = self._find()
        assert len(self.instances) == 1

    def _find(self) -> list[Instance]:
        return self._backend.find(self.manager.kernel_id, self.connection_file)

    def assert_gone(self) -> None:
        assert not any(instance.is_running() for instance in self.instances)
        assert self._find() == []
        assert not self.manager.has_kernel
        assert self.manager.kernel_id not in {record.kernel_id for record in read_records()}


def said(client: Any, code: str) -> str:
    """Execute code through a blocking client and return what it printed."""
    printed: list[str] = []
    reply = client.execute_interactive(
        code, timeout=LIMIT, output_hook=lambda m: printed.append(m["content"].get("text", ""))
    )
    assert reply["content"]["status"] == "ok"
    return "".join(printed)


async def said_async(client: Any, code: str) -> str:
    printed: list[str] = []
    reply = await client.execute_interactive(
        code, timeout=LIMIT, output_hook=lambda m: printed.append(m["content"].get("text", ""))
    )
    assert reply["content"]["status"] == "ok"
    return "".join(printed)


def test_the_blocking_manager_starts_restarts_and_shuts_down(
    kernel_name: str, backend: Backend
) -> None:
    manager, client = start_new_kernel(LIMIT, kernel_name)
    try:
        watched = Watched(manager, backend)
        assert said(client, "kept = 1; print(6 * 7)") == "42\n"
        manager.restart_kernel()
        client.wait_for_ready(timeout=LIMIT)
        assert said(client, "print('kept' in globals())") == "False\n"
        assert not any(instance.is_running() for instance in watched.instances)
        manager.restart_kernel(now=True)
        client.wait_for_ready(timeout=LIMIT)
        assert said(client, "print(6 * 7)") == "42\n"
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
    watched.assert_gone()


def test_the_blocking_manager_sees_a_killed_kernel_and_starts_it_anew(
    kernel_name: str, backend: Backend
) -> None:
    manager, client = start_new_kernel(LIMIT, kernel_name)
    try:
        watched = Watched(manager, backend)
        assert manager.is_alive()
        watched.instances[0].kill()
        while manager.is_alive():
            time.sleep(0.05)  # the manager has nothing to wait with
        manager.restart_kernel()
        client.wait_for_ready(timeout=LIMIT)
        assert said(client, "print(6 * 7)") == "42\n"
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    watched.assert_gone()


def test_the_blocking_manager_interrupts(kernel_name: str, backend: Backend) -> None:
    with run_kernel(kernel_name=kernel_name, startup_timeout=LIMIT) as client:
        msg_id = client.execute("import time; print('begun', flush=True); time.sleep(600)")
        while client.get_iopub_msg(timeout=LIMIT)["content"].get("text") != "begun\n":
            pass
        client.parent.interrupt_kernel()
        while (reply := client.get_shell_msg(timeout=LIMIT))["parent_header"]["msg_id"] != msg_id:
            pass
        assert reply["content"]["ename"] == "KeyboardInterrupt"


def test_run_kernel_ends_the_kernel_with_its_block(kernel_name: str, backend: Backend) -> None:
    with run_kernel(kernel_name=kernel_name, startup_timeout=LIMIT) as client:
        watched = Watched(client.parent, backend)
        assert said(client, "print(6 * 7)") == "42\n"
    watched.assert_gone()


async def test_the_asynchronous_manager_starts_restarts_and_shuts_down(
    kernel_name: str, backend: Backend
) -> None:
    manager, client = await start_new_async_kernel(LIMIT, kernel_name)
    try:
        assert isinstance(manager, AsyncKernelManager)
        watched = Watched(manager, backend)
        assert await said_async(client, "kept = 1; print(6 * 7)") == "42\n"
        await manager.restart_kernel()
        await client.wait_for_ready(timeout=LIMIT)
        assert await said_async(client, "print('kept' in globals())") == "False\n"
        assert not watched.instances[0].is_running()
    finally:
        client.stop_channels()
        await manager.shutdown_kernel()
    watched.assert_gone()


async def test_the_blocking_manager_works_inside_a_running_event_loop(
    kernel_name: str, backend: Backend
) -> None:
    manager = KernelManager(kernel_name=kernel_name)
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        watched = Watched(manager, backend)
        client.wait_for_ready(timeout=LIMIT)
        assert said(client, "print(6 * 7)") == "42\n"
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
    watched.assert_gone()


def test_the_blocking_manager_of_many_runs_two_kernels(kernel_name: str, backend: Backend) -> None:
    managers = MultiKernelManager()
    ids = [managers.start_kernel(kernel_name=kernel_name) for _ in range(2)]
    try:
        watched = [Watched(managers.get_kernel(kernel_id), backend) for kernel_id in ids]
        for number, kernel_id in enumerate(ids):
            client = managers.get_kernel(kernel_id).client()
            client.start_channels()
            client.wait_for_ready(timeout=LIMIT)
            assert said(client, f"print({number})") == f"{number}\n"
            client.stop_channels()
    finally:
        managers.shutdown_all()
    for one in watched:
        one.assert_gone()


async def test_the_asynchronous_manager_of_many_runs_two_kernels(
    kernel_name: str, backend: Backend
) -> None:
    managers = AsyncMultiKernelManager()
    ids = [await managers.start_kernel(kernel_name=kernel_name) for _ in range(2)]
    try:
        watched = [Watched(managers.get_kernel(kernel_id), backend) for kernel_id in ids]
        for number, kernel_id in enumerate(ids):
            client = managers.get_kernel(kernel_id).client()
            client.start_channels()
            await client.wait_for_ready(timeout=LIMIT)
            assert await said_async(client, f"print({number})") == f"{number}\n"
            client.stop_channels()
        await managers.restart_kernel(ids[0])
    finally:
        await managers.shutdown_all()
    for one in watched:
        one.assert_gone()
