"""Kernels in pods while they run: interrupts, ends, restarts, losses, adoption."""

import asyncio
import time
from pathlib import Path

import pytest
from cluster import ARGV, KERNEL_ID

from kernel_provisioner_core.errors import KernelNotFoundError
from kernel_provisioner_k8s import KubernetesProvisioner

pytestmark = pytest.mark.needs("kubernetes")
WRAPPED = ["sh", "-c", "python3 -m ipykernel_launcher -f {connection_file}; exit $?"]
NOSHELL = "kernel-provisioners/kernel:noshell"


async def started(kernels, config=None, **arguments):
    kernel = await kernels(config, **arguments).start()
    return await kernel.connect()


async def ended(kernel, seconds=20):
    """Return how the kernel ended, by a manager that polls."""
    limit = time.monotonic() + seconds
    while await kernel.provisioner.poll() is None:
        assert time.monotonic() < limit, "it still runs"
        await asyncio.sleep(0.05)
    await kernel.provisioner.wait()
    return kernel.provisioner.last_exit


async def interrupted(kernel, code):
    """Interrupt code in the middle, and return after how many seconds the kernel answers."""
    code = f"print('busy', flush=True)\n{code}"
    message = kernel.client.execute(code, stop_on_error=False)  # what comes next is not aborted
    while True:
        told = await kernel.client.get_iopub_msg(timeout=20)
        if told["parent_header"].get("msg_id") == message and told["msg_type"] == "stream":
            break
    begun = time.monotonic()
    await kernel.manager.interrupt_kernel()
    assert await kernel.run("print('free')", 20) == "free"
    return time.monotonic() - begun


@pytest.mark.parametrize(
    "code", ["import time; time.sleep(60)", "import os; os.system('sleep 60')", "!sleep 60"]
)
@pytest.mark.parametrize("config", [{}, {"share_process_namespace": False}])
@pytest.mark.parametrize("argv", [ARGV, WRAPPED])
async def test_an_interrupt_reaches_what_the_kernel_runs(cluster, kernels, config, argv, code):
    kernel = await started(kernels, config, argv=argv)
    assert await interrupted(kernel, code) < 5


async def test_an_image_without_a_shell_is_interrupted_and_killed_all_the_same(cluster, kernels):
    kernel = await started(kernels, {"image": NOSHELL})
    assert await interrupted(kernel, "import time; time.sleep(60)") < 5
    await kernel.provisioner.kill()
    assert (await ended(kernel)).code == -9


@pytest.mark.parametrize(("config", "seconds"), [({}, 5), ({"share_process_namespace": False}, 20)])
async def test_a_kill_shows_soon(cluster, kernels, config, seconds):
    kernel = await started(kernels, config)
    begun = time.monotonic()
    await kernel.provisioner.kill()
    assert (await ended(kernel)).code == -9
    assert time.monotonic() - begun < seconds


async def test_a_kernel_that_encrypts_runs(cluster, kernels):
    metadata = {"supported_encryption": ["curve"]}
    kernel = await started(kernels, metadata=metadata, transport_encryption="required")
    assert await kernel.run("print(6 * 7)") == "42"
    assert await interrupted(kernel, "import time; time.sleep(60)") < 5
    assert kernel.provisioner.connection_info["curve_secretkey"]


async def test_exit_codes_are_the_kernels_own(cluster, kernels):
    kernel = await started(kernels)
    kernel.client.execute("import os; os._exit(7)")
    assert (await ended(kernel)).code == 7


async def test_a_kernel_that_takes_too_much_memory_says_so(cluster, kernels, caplog):
    kernel = await started(kernels, {"resources": {"memory": "150Mi"}})
    kernel.client.execute("x = bytearray(500 << 20)\nfor i in range(0, len(x), 4096): x[i] = 1")
    exit_ = await ended(kernel)
    assert (exit_.code, exit_.cause) == (-9, "OOMKilled")


async def test_a_pod_that_fills_its_scratch_space_is_evicted_and_says_so(cluster, kernels):
    scratch = {"type": "empty-dir", "target": "/scratch", "size": "1Mi"}
    kernel = await started(kernels, {"mounts": [scratch]})
    kernel.client.execute("open('/scratch/x', 'wb').write(bytes(5 << 20))")
    exit_ = await ended(kernel, 60)
    assert "Evicted" in exit_.cause


@pytest.mark.parametrize("grace", [0, 1])
async def test_a_pod_that_somebody_deletes_is_dead_once_its_process_is(cluster, kernels, grace):
    kernel = await started(kernels)
    [pod] = cluster.pods()
    process = f"kernel-{kernel.manager.kernel_id}"
    cluster.delete(pod["metadata"]["name"], grace)
    exit_ = await ended(kernel)
    if cluster.is_here:
        assert not [pid for pid in Path("/proc").glob("[0-9]*") if process in command_of(pid)]
    assert exit_.code is not None or "deleted by somebody else" in exit_.cause


def command_of(pid):
    try:
        return (pid / "cmdline").read_text(errors="replace")
    except OSError:
        return ""


async def test_a_restart_is_a_new_pod_that_connected_clients_find(cluster, kernels):
    kernel = await started(kernels)
    [before] = cluster.pods()
    address = kernel.manager.get_connection_info()
    assert await kernel.run("x = 1; print(x)") == "1"
    await kernel.manager.restart_kernel()
    await kernel.client.wait_for_ready(30)
    assert kernel.manager.get_connection_info() == address
    assert await kernel.run("print('x' in globals())") == "False"
    [after] = [pod for pod in cluster.pods() if "deletionTimestamp" not in pod["metadata"]]
    assert after["metadata"]["uid"] != before["metadata"]["uid"]


async def test_a_port_forward_that_is_cut_in_mid_output_is_dialled_again(cluster, kernels):
    kernel = await started(kernels)
    kernel.client.execute("for i in range(300): print('x' * 100_000)")
    await kernel.client.get_iopub_msg(timeout=20)
    import socket

    for connection in list(kernel.provisioner._forwarder._connections):
        if connection._duplex is not None:
            connection._duplex._socket.shutdown(socket.SHUT_RDWR)
    limit = time.monotonic() + 30
    while True:  # what was in flight is lost; the next one works
        try:
            assert await kernel.run("print('there')", 5) == "there"
            break
        except (TimeoutError, RuntimeError, asyncio.TimeoutError):
            assert time.monotonic() < limit


async def test_another_process_adopts_a_running_kernel_and_ends_it(cluster, kernels):
    kernel = await started(kernels)
    info = await kernel.provisioner.get_provisioner_info()
    options = {"image": "x", "namespace": cluster.namespace}
    adopter = KubernetesProvisioner(kernel_id=kernel.manager.kernel_id, **options)
    await adopter.load_provisioner_info(info)
    assert adopter.has_process
    assert await adopter.poll() is None
    await adopter.kill()
    assert await asyncio.wait_for(adopter.wait(), 20) == -9
    await adopter.cleanup()
    stranger = KubernetesProvisioner(kernel_id=kernel.manager.kernel_id, **options)
    with pytest.raises(KernelNotFoundError):
        await stranger.load_provisioner_info(info)


async def test_twenty_kernels_share_one_watch(cluster, kernels):
    import threading

    kernel, other = await asyncio.gather(kernels().start(), kernels().start())
    watches = [thread for thread in threading.enumerate() if thread.name == "kernel-watch"]
    assert len(watches) == 1
    assert (
        kernel.provisioner.watch(kernel.provisioner._handle)[0]
        is (other.provisioner.watch(other.provisioner._handle)[0])
    )


async def test_logs_are_the_kernels_output(cluster, kernels):
    kernel = await started(kernels)
    await kernel.run("import os; os.write(1, b'from beside\\n')")
    assert "from beside" in await asyncio.to_thread(kernel.provisioner.get_logs)


async def test_two_servers_in_one_namespace_keep_apart(cluster, kernels):
    mine, others = await asyncio.gather(kernels().start(), kernels().start())
    await mine.close()
    assert await others.provisioner.poll() is None
    await others.connect()
    assert await others.run("print(1)") == "1"
    cluster.await_empty(f"{KERNEL_ID}={mine.manager.kernel_id}")
