"""The API that core and local promise: its examples run, and every name takes the arguments that it shows.

The examples were written for jupyter_client's classes. They stand here as they are, but for their imports (ours instead
of `jupyter_client.provisioning` and `jupyter_client.launcher`), for `print` where a test can assert, and for the
adaptations that are stated beside them.
"""

from __future__ import annotations

import asyncio
import inspect
import os
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jupyter_client
import jupyter_client.connect
import jupyter_client.provisioning
import pytest
from jupyter_client import AsyncKernelManager, BlockingKernelClient, KernelManager

# Adapted: get_kernel_spec is in jupyter_client.kernelspec, not in jupyter_client.
from jupyter_client.kernelspec import get_kernel_spec

import kernel_provisioner_core
from kernel_provisioner_core import (
    KernelProvisionerBase,
    KernelProvisionerFactory,
    find_connection_file,
    launch_kernel,
    write_connection_file,
)
from kernel_provisioner_local import LocalProvisioner

LIMIT = 150.0  # seconds, for a kernel's start and its answers on a busy machine


@pytest.fixture(autouse=True)
def runtime_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A runtime directory of the test's own, empty at the end; and ours as the default provisioner."""
    folder = tmp_path / "runtime"
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    # Adapted: jupyter_client's default is its own provisioner.
    monkeypatch.setenv("JUPYTER_DEFAULT_PROVISIONER_NAME", "kernel-provisioner-local")
    factories = (jupyter_client.provisioning.KernelProvisionerFactory, KernelProvisionerFactory)
    for factory in factories:
        factory.clear_instance()
    yield folder
    for factory in factories:
        factory.clear_instance()
    assert [path for path in folder.rglob("*") if path.is_file()] == []


def execute(client: Any, code: str) -> str:
    """Execute code in a kernel and return what it printed."""
    # A client without a manager takes a kernel for dead that is slow to answer its first heartbeat.
    client.start_channels(hb=False)
    try:
        client.wait_for_ready(timeout=LIMIT)
        printed: list[str] = []
        reply = client.execute_interactive(
            code, timeout=LIMIT, output_hook=lambda m: printed.append(m["content"].get("text", ""))
        )
        assert reply["content"]["status"] == "ok"
        return "".join(printed)
    finally:
        client.stop_channels()


# -- the examples -------------------------------------------------------------------------------


def test_the_local_provisioner_is_used_by_default() -> None:
    km = KernelManager(kernel_name="python3")
    km.start_kernel()

    # The provisioner is accessible
    provisioner = km.provisioner
    assert type(provisioner) is LocalProvisioner
    assert provisioner.has_process

    # Check if kernel is running
    # Adapted: `if await provisioner.poll() is None` stands outside of any coroutine there.
    assert asyncio.run(provisioner.poll()) is None

    km.shutdown_kernel()
    assert asyncio.run(provisioner.poll()) is not None


class CustomProvisioner(KernelProvisionerBase):
    """Custom provisioner example."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def has_process(self) -> bool:
        return True

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> Any:
        """Launch kernel with custom logic."""
        # Custom environment setup
        custom_env = kwargs.get("env", {}).copy()
        custom_env["CUSTOM_VAR"] = "custom_value"

        # Launch process
        self.process = subprocess.Popen(
            cmd,
            env=custom_env,
            cwd=kwargs.get("cwd"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

        # Adapted: "(would be real in practice)" says the example of five made-up ports.
        return self.connection_info

    async def poll(self) -> int | None:
        if self.process:
            return self.process.poll()
        return None

    async def kill(self, restart: bool = False) -> None:
        if self.process:
            self.process.kill()

    async def terminate(self, restart: bool = False) -> None:
        if self.process:
            self.process.terminate()

    async def send_signal(self, signum: int) -> None:
        if self.process:
            self.process.send_signal(signum)

    async def wait(self) -> int | None:
        if self.process:
            return self.process.wait()
        return None


def test_a_custom_provisioner_runs_a_kernel() -> None:
    # Use custom provisioner
    km = KernelManager()
    km.provisioner = CustomProvisioner(parent=km)

    # Added: the example ends here.
    km.start_kernel()
    first = km.provisioner.process
    ask = "import os; print(os.environ['CUSTOM_VAR'])"
    assert execute(km.client(), ask) == "custom_value\n"
    km.restart_kernel()
    second = km.provisioner.process
    assert second is not first
    assert execute(km.client(), ask) == "custom_value\n"
    km.shutdown_kernel()
    for process in (first, second):
        assert process is not None
        with process:  # closes the pipes, that nobody reads in the example
            assert process.poll() is not None


def test_the_factory_makes_a_provisioner() -> None:
    # Get factory instance
    factory = KernelProvisionerFactory.instance()

    # Get available provisioners
    provisioners = factory.get_provisioner_entries()
    assert {"kernel-provisioner-local", "local-provisioner"} <= set(provisioners.keys())

    # Check if provisioner is available for a kernel spec
    kernel_spec = get_kernel_spec("python3")
    assert factory.is_provisioner_available(kernel_spec)

    # Create provisioner instance
    provisioner = factory.create_provisioner_instance(
        kernel_id="test-kernel", kernel_spec=kernel_spec, parent=None
    )
    assert type(provisioner) is LocalProvisioner


async def manage_kernel_with_provisioner() -> None:
    km = AsyncKernelManager()
    await km.start_kernel()
    provisioner = km.provisioner
    assert type(provisioner) is LocalProvisioner

    # Check provisioner state
    if provisioner.has_process:
        status = await provisioner.poll()
        assert status is None

    # Get provisioner info
    info = await provisioner.get_provisioner_info()
    assert info["kernel_id"] == km.kernel_id

    # Graceful shutdown
    await provisioner.terminate()
    await provisioner.wait()

    # Cleanup
    await provisioner.cleanup()
    await km.shutdown_kernel()
    assert not await km.is_alive()


def test_a_kernel_is_managed_through_its_provisioner() -> None:
    # Run async example
    asyncio.run(manage_kernel_with_provisioner())


def test_a_kernel_is_launched_directly() -> None:
    # Prepare kernel command
    # Adapted: this interpreter instead of any `python` on the PATH.
    cmd = [sys.executable, "-m", "ipykernel_launcher", "-f", "connection.json"]

    # Create temporary directory for kernel
    with tempfile.TemporaryDirectory() as temp_dir:
        conn_file = os.path.join(temp_dir, "connection.json")

        # Write connection file
        write_connection_file(conn_file)

        # Launch kernel directly
        process = launch_kernel(cmd, cwd=temp_dir, independent=True)
        assert process.pid

        try:
            # Use kernel...
            # Added: the example says no more than that.
            assert find_connection_file("connection.json", path=temp_dir) == conn_file
            client = BlockingKernelClient()
            client.load_connection_file(conn_file)
            assert execute(client, "print(6 * 7)") == "42\n"
        finally:
            # Clean up
            process.terminate()
            process.wait()


class ContainerProvisioner(LocalProvisioner):
    """Example provisioner that runs kernels in containers."""

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Modify command to run in container."""
        # Adapted: the manager passes no command; the base class makes it, and with it the connection file and
        # the environment. The example never calls it.
        kwargs = await super().pre_launch(**kwargs)
        cmd = kwargs.get("cmd", [])

        # Wrap command with container runtime
        # Adapted: `env` in place of `docker run --rm -i --name`, a variable in place of image and name.
        container_cmd = ["env", f"CONTAINER_NAME=kernel-{self.kernel_id}", *cmd]

        kwargs["cmd"] = container_cmd
        return kwargs

    async def kill(self, restart: bool = False) -> None:
        """Kill container instead of process."""
        # Adapted: `kill` in place of `docker kill`, with the pid in place of the container's name.
        process = (await self.get_provisioner_info())["process"]
        try:
            subprocess.run(["kill", "-s", "KILL", str(process["pid"])], check=True)
        except subprocess.CalledProcessError:
            pass  # Container might already be stopped


@pytest.mark.skipif(sys.platform == "win32", reason="env and kill are commands of Unix")
def test_a_provisioner_wraps_the_command_of_the_local_one() -> None:
    # Use container provisioner
    km = KernelManager()
    # Adapted: `km.provisioner_class = ContainerProvisioner` sets an attribute that nobody reads; and the
    # provisioner that is made by hand has to be told the id that it uses.
    km.kernel_id = str(uuid.uuid4())
    km.provisioner = ContainerProvisioner(
        kernel_id=km.kernel_id, kernel_spec=km.kernel_spec, parent=km
    )
    km.start_kernel()

    # Added: the example ends here.
    ask = "import os; print(os.environ['CONTAINER_NAME'])"
    assert execute(km.client(), ask) == f"kernel-{km.kernel_id}\n"
    km.shutdown_kernel(now=True)
    assert km.provisioner.last_exit is not None
    assert km.provisioner.last_exit.code == -9


# -- the signatures -----------------------------------------------------------------------------

PROPERTY = "property"

PROVISIONER = {
    "has_process": PROPERTY,
    "poll": "async (self)",
    "wait": "async (self)",
    "send_signal": "async (self, signum)",
    "kill": "async (self, restart=False)",
    "terminate": "async (self, restart=False)",
    "launch_kernel": "async (self, cmd, **kwargs)",
    "cleanup": "async (self, restart=False)",
    "shutdown_requested": "async (self, restart=False)",
    "pre_launch": "async (self, **kwargs)",
    "post_launch": "async (self, **kwargs)",
    "get_provisioner_info": "async (self)",
    "load_provisioner_info": "async (self, provisioner_info)",
    "get_shutdown_wait_time": "(self, recommended=5.0)",
    "get_stable_start_time": "(self, recommended=10.0)",
}

FACTORY = {
    "is_provisioner_available": "(self, kernel_spec)",
    "create_provisioner_instance": "(self, kernel_id, kernel_spec, parent)",
    "get_provisioner_entries": "(self)",
}

FUNCTIONS = {
    "launch_kernel": "(cmd, stdin=None, stdout=None, stderr=None, env=None, independent=False, "
    "cwd=None, **kw)",
}

MUST_BE_OVERRIDDEN = {
    "has_process",
    "poll",
    "wait",
    "send_signal",
    "kill",
    "terminate",
    "launch_kernel",
}


def shape(member: Any) -> str:
    """Return how a member is called, without annotations."""
    if isinstance(member, property):
        return PROPERTY
    signature = inspect.signature(member)
    bare = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    text = str(signature.replace(parameters=bare, return_annotation=signature.empty))
    return f"async {text}" if inspect.iscoroutinefunction(member) else text


@pytest.mark.parametrize(
    ("owner", "name", "promised"),
    [
        *((KernelProvisionerBase, name, promised) for name, promised in PROVISIONER.items()),
        *((LocalProvisioner, name, promised) for name, promised in PROVISIONER.items()),
        *((KernelProvisionerFactory, name, promised) for name, promised in FACTORY.items()),
        *((kernel_provisioner_core, name, promised) for name, promised in FUNCTIONS.items()),
    ],
)
def test_a_public_name_takes_the_promised_arguments(owner: Any, name: str, promised: str) -> None:
    assert shape(inspect.getattr_static(owner, name)) == promised


def test_what_may_be_overridden_has_a_working_default() -> None:
    assert KernelProvisionerBase.__abstractmethods__ == MUST_BE_OVERRIDDEN


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (write_connection_file, jupyter_client.connect.write_connection_file),
        (find_connection_file, jupyter_client.connect.find_connection_file),
    ],
)
def test_the_connection_file_functions_take_what_jupyter_clients_take(
    ours: Any, theirs: Any
) -> None:
    def parameters(function: Any) -> list[tuple[str, object, object]]:
        return [
            (p.name, p.kind, p.default) for p in inspect.signature(function).parameters.values()
        ]

    # jupyter_client's have more arguments since it encrypts; an older one lacks these
    assert [p for p in parameters(ours) if p in parameters(theirs)] == parameters(theirs)
