"""The API server goes away and comes back, in a launch and in a run; a cluster of our own is needed for that."""

import asyncio

import pytest

from kernel_provisioner_k8s.client import Cluster
from services import kubernetes

pytestmark = [pytest.mark.needs("kubernetes"), pytest.mark.timeout(180)]


@pytest.fixture(autouse=True)
def our_cluster():
    if not kubernetes.is_ours():
        pytest.skip("the API server of a cluster that is not ours is not stopped")
    yield
    kubernetes.start_api_server()


async def test_a_kernel_outlives_a_restart_of_the_api_server_and_is_reached_again(cluster, kernels):
    kernel = await kernels().start()
    await kernel.connect()
    await kernel.run("x = 42")
    await asyncio.to_thread(kubernetes.stop_api_server)
    for _ in range(20):
        assert await kernel.provisioner.poll() is None  # away is unknown, and not dead
        await asyncio.sleep(0.1)
    assert kernel.provisioner._liveness.unknown_seconds > 0
    await asyncio.to_thread(kubernetes.start_api_server)
    for _ in range(60):
        try:
            assert await kernel.run("print(x)", 5) == "42"
            break
        except (TimeoutError, asyncio.TimeoutError, RuntimeError):
            continue
    assert await kernel.provisioner.poll() is None
    kernel.client.execute("import os; os._exit(5)")
    assert await asyncio.wait_for(kernel.provisioner.wait(), 20) == 5


async def test_a_launch_outlives_a_restart_of_the_api_server(cluster, kernels):
    await kernels().start()  # a server that never answered would be given up sooner
    kernel = kernels()
    await asyncio.to_thread(kubernetes.stop_api_server)
    task = asyncio.ensure_future(kernel.start())
    await asyncio.sleep(1)
    await asyncio.to_thread(kubernetes.start_api_server)
    await task
    await kernel.connect()
    assert await kernel.run("print(1)") == "1"


async def test_a_server_that_is_away_for_lost_timeout_ends_the_kernel(cluster, kernels):
    kernel = await kernels({"lost_timeout": 1.0}).start()
    await kernel.connect()
    await asyncio.to_thread(kubernetes.stop_api_server)
    for _ in range(100):
        if await kernel.provisioner.poll() is not None:
            break
        await asyncio.sleep(0.1)
    assert "out of reach" in kernel.provisioner.last_exit.reason
    await asyncio.to_thread(kubernetes.start_api_server)


async def test_a_watch_whose_version_is_too_old_lists_again(cluster, kernels, monkeypatch):
    follow, versions = Cluster.follow, []

    def from_the_beginning(self, path, query, limit):
        if path.endswith("/pods"):
            versions.append(query["resourceVersion"])
            if len(versions) == 1:
                query = {**query, "resourceVersion": "1"}
        return follow(self, path, query, limit)

    monkeypatch.setattr(Cluster, "follow", from_the_beginning)
    kernel = await kernels().start()
    await kernel.connect()
    assert len(versions) == 2
    kernel.client.execute("import os; os._exit(6)")
    assert await asyncio.wait_for(kernel.provisioner.wait(), 30) == 6
