"""What goes wrong, on a real engine: a clear error with the cure, nothing left behind, others unharmed."""

import asyncio
import contextlib
import multiprocessing
import os
import socket
import sys
import time
from pathlib import Path

import pytest

from kernel_provisioner_core import (
    BackendUnavailableError,
    CommandNotFoundError,
    ConfigurationError,
    KernelProvisionerError,
    LaunchError,
    LaunchTimeoutError,
)
from kernel_provisioner_core.records import read_records
from kernel_provisioner_docker.client import Engine, EngineAddress

sys.path.insert(0, str(Path(__file__).parent))
from kernel_containers import containers_of

pytestmark = [
    pytest.mark.needs("docker"),
    # the SDK leaves it to the interpreter to close connections that broke
    pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

SLEEPER = ["python3", "-c", "import time; time.sleep(600)", "{connection_file}"]


async def refused(manager, engine, error=LaunchError):
    """Return what a launch that fails says; nothing of it may be left at once."""
    with pytest.raises(error) as caught:
        await manager.start_kernel()
    assert type(caught.value) is error
    assert caught.value.hint
    assert not manager.has_kernel
    assert not containers_of(engine, manager)
    assert not read_records()
    return str(caught.value)


# -- the engine


async def test_no_engine(make, engine, tmp_path):
    said = await refused(make(host=f"unix://{tmp_path}/no.sock"), engine, BackendUnavailableError)
    assert "No Docker engine listens" in said
    assert "systemctl start docker" in said


async def test_nobody_listens_at_the_address(make, engine):
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        host = f"tcp://127.0.0.1:{held.getsockname()[1]}"
        assert "refused" in await refused(make(host=host), engine, BackendUnavailableError)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs another user")
def test_no_permission_on_the_socket(proxy):
    os.chmod(Path(proxy.url[7:]).parent, 0o755)
    os.chmod(proxy.url[7:], 0o600)

    def ask(answers):
        os.setuid(65534)
        try:
            Engine(EngineAddress(proxy.url)).image("x")
        except BackendUnavailableError as error:
            answers.put(str(error))

    fork = multiprocessing.get_context("fork")
    answers = fork.SimpleQueue()
    process = fork.Process(target=ask, args=(answers,))
    process.start()
    process.join(60)
    said = answers.get()
    assert "does not let this user in" in said
    assert "usermod -aG docker" in said


async def test_an_engine_on_another_machine_is_refused(make, engine):
    said = await refused(make(host="tcp://192.0.2.1:2376"), engine, ConfigurationError)
    assert "another machine" in said


# -- the image


async def test_no_image_is_given(make, engine):
    manager = make()
    manager.provisioner.image = ""
    assert "`image` is missing" in await refused(manager, engine, ConfigurationError)


async def test_an_image_that_must_not_be_pulled(make, engine):
    assert "pull_policy is 'never'" in await refused(make(image="nosuch:1"), engine)


async def test_an_image_whose_registry_is_out_of_reach(make, engine):
    manager = make(image="127.0.0.1:9/nosuch:1", pull_policy="missing")
    said = await refused(manager, engine)
    assert "127.0.0.1:9/nosuch:1" in said
    assert "registry" in said


@pytest.mark.needs("registry")
async def test_an_image_that_does_not_exist(make, engine):
    registry = os.environ["KERNEL_PROVISIONERS_REGISTRY"]
    manager = make(image=f"{registry}/nosuch:1", pull_policy="missing")
    assert "does not exist" in await refused(manager, engine)


@pytest.mark.needs("registry")
async def test_a_registry_that_asks_for_a_password(make, engine, answer, monkeypatch):
    registry = os.environ["KERNEL_PROVISIONERS_REGISTRY_WITH_AUTH"]
    user, _, password = os.environ["KERNEL_PROVISIONERS_REGISTRY_AUTH"].partition(":")
    image = f"{registry}/kernel:test"
    said = await refused(make(image=image, pull_policy="always"), engine)
    assert "docker login" in said

    auth = {"username": user, "password_env": "REGISTRY_PASSWORD"}
    manager = make(image=image, pull_policy="always", registry_auth=auth)
    monkeypatch.delenv("REGISTRY_PASSWORD", raising=False)
    assert "REGISTRY_PASSWORD" in await refused(manager, engine, ConfigurationError)

    monkeypatch.setenv("REGISTRY_PASSWORD", password)
    try:
        await manager.start_kernel()
        assert await answer(manager, "print(6*7)") == "42"
        await manager.shutdown_kernel(now=True)
    finally:
        engine.remove_image(image)


@pytest.mark.needs("registry")
async def test_a_pull_tells_its_progress_in_bytes(make, engine):
    image = f"{os.environ['KERNEL_PROVISIONERS_REGISTRY']}/kernel:pull"
    manager = make(image=image, pull_policy="always")
    said = []
    manager.provisioner.progress = said.append
    try:
        await manager.start_kernel()
        await manager.shutdown_kernel(now=True)
    finally:
        engine.remove_image(image)
    assert said[0] == f"pulling {image}"
    assert any("MB" in line for line in said)


async def test_an_image_for_another_architecture(make, engine):
    assert "another architecture" in await refused(make(image="foreign", mounts=()), engine)


async def test_a_platform_that_the_image_does_not_have(make, engine):
    said = await refused(make(platform="linux/s390x"), engine)
    assert "platform" in said


@pytest.mark.parametrize("init", [True, False])
async def test_a_command_that_is_not_in_the_image(make, engine, init):
    manager = make(["no-such-kernel", "{connection_file}"], init=init)
    said = await refused(manager, engine, CommandNotFoundError)
    assert "no-such-kernel" in said
    assert "argv" in said


async def test_a_user_that_the_image_does_not_have(make, engine):
    said = await refused(make(user="nobody-here"), engine, ConfigurationError)
    assert "nobody-here" in said


async def test_a_directory_that_does_not_exist_is_not_made(make, engine, tmp_path):
    missing = tmp_path / "missing"
    assert "missing" in await refused(make(mounts=[f"{missing}:/data"]), engine)
    assert not missing.exists()


async def test_a_network_that_does_not_exist(make, engine):
    assert "no-such-network" in await refused(make(network="no-such-network"), engine)


# -- the start


async def test_a_kernel_that_dies_at_its_start_leaves_its_words(make, engine):
    manager = make(["python3", "-c", "raise SystemExit('no licence')", "{connection_file}"])
    assert "no licence" in await refused(manager, engine)


async def test_a_kernel_that_never_listens(make, engine):
    manager = make(SLEEPER, launch_timeout=2)
    assert "after 2 s" in await refused(manager, engine, LaunchTimeoutError)


async def test_a_port_that_is_taken_between_choice_and_start(make, engine, proxy):
    manager = make(host=proxy.url)
    came, _ = proxy.hold("POST /containers/.*/start")
    starting = asyncio.ensure_future(manager.start_kernel())
    await asyncio.to_thread(came.wait, 60)
    with socket.socket() as thief:
        thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        thief.bind(("127.0.0.1", manager.shell_port))
        thief.listen()
        proxy.release()
        with pytest.raises(LaunchError, match="was taken"):
            await starting
    assert not containers_of(engine, manager)


STAGES = {
    "pull": "POST /images/create",
    "create": "POST /containers/create",
    "put": "PUT /containers/.*/archive",
    "start": "POST /containers/.*/start",
    "wait": "GET /events",
}


@pytest.mark.parametrize("stage", STAGES)
async def test_a_launch_is_cancelled(make, engine, proxy, stage):
    if stage == "pull":
        manager = make(image="127.0.0.1:9/nosuch:1", host=proxy.url, pull_policy="missing")
    else:
        manager = make(SLEEPER, host=proxy.url)
    came, go = proxy.hold(STAGES[stage])
    if stage == "wait":
        go.set()
    starting = asyncio.ensure_future(manager.start_kernel())
    await asyncio.to_thread(came.wait, 60)
    if stage == "wait":
        while not manager.has_kernel:
            await asyncio.sleep(0.01)
    starting.cancel()
    await asyncio.sleep(0.1)
    proxy.release()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not containers_of(engine, manager)
    assert not read_records()


# -- the daemon goes away


@pytest.mark.parametrize("stage", ["create", "put", "start"])
async def test_the_daemon_goes_away_during_a_launch(make, engine, proxy, stage):
    manager = make(host=proxy.url)
    came, go = proxy.hold(STAGES[stage])
    starting = asyncio.ensure_future(manager.start_kernel())
    await asyncio.to_thread(came.wait, 60)
    proxy.cut()
    go.set()
    with pytest.raises(BackendUnavailableError):
        await starting
    assert not manager.has_kernel
    proxy.release()
    proxy.mend()
    await until(lambda: not containers_of(engine, manager))


async def test_a_daemon_that_goes_away_kills_no_kernel_and_is_noticed_again(
    make, engine, proxy, answer
):
    manager = make(host=proxy.url)
    await manager.start_kernel()
    proxy.cut()
    liveness = manager.provisioner._liveness
    await until(lambda: liveness.unknown_seconds > 0)
    assert await manager.is_alive()
    assert await answer(manager, "print(6*7)") == "42"  # the container does not need its daemon
    with pytest.raises(BackendUnavailableError):
        await manager.interrupt_kernel()
    proxy.mend()
    await until(lambda: liveness.unknown_seconds == 0)
    await manager.shutdown_kernel(now=True)


async def test_an_end_while_the_daemon_is_away_is_learned_afterwards(make, engine, proxy):
    manager = make(host=proxy.url)
    await manager.start_kernel()
    proxy.cut()
    (container,) = containers_of(engine, manager)
    engine.kill(container)
    assert await manager.is_alive()
    proxy.mend()
    assert await asyncio.wait_for(manager.provisioner.wait(), 60) == -9
    await manager.shutdown_kernel(now=True)


async def test_a_daemon_that_stays_away_counts_its_kernels_as_dead_at_last(make, engine, proxy):
    manager = make(host=proxy.url, lost_timeout=0.5)
    await manager.start_kernel()
    proxy.cut()
    while await manager.is_alive():
        await asyncio.sleep(0.1)
    assert "out of reach" in manager.provisioner.last_exit.reason
    await manager.shutdown_kernel(now=True)  # ends although nothing can be removed
    proxy.mend()
    await until(lambda: not containers_of(engine, manager))


# -- somebody else


async def test_a_container_that_somebody_removes_is_made_anew(make, engine, answer):
    manager, other = make(), make()
    await asyncio.gather(manager.start_kernel(), other.start_kernel())
    (container,) = containers_of(engine, manager)
    engine.remove_container(container, force=True)
    assert await asyncio.wait_for(manager.provisioner.wait(), 60) is not None
    await manager.restart_kernel(now=True)
    assert await answer(manager, "print(6*7)") == "42"
    assert await other.is_alive()
    assert await answer(other, "print(6*7)") == "42"
    await asyncio.gather(manager.shutdown_kernel(now=True), other.shutdown_kernel(now=True))


async def test_a_paused_container_can_be_shut_down_and_goes_on_when_it_is_let(make, engine, answer):
    manager = make()
    await manager.start_kernel()
    (container,) = containers_of(engine, manager)
    engine.pause(container)
    assert await manager.is_alive()
    engine.unpause(container)
    assert await answer(manager, "print(6*7)") == "42"
    engine.pause(container)
    begun = time.monotonic()
    with contextlib.suppress(KernelProvisionerError):
        await manager.interrupt_kernel()
    await manager.shutdown_kernel()
    assert time.monotonic() - begun < 60
    assert not containers_of(engine, manager)


async def until(true, seconds=60):
    """Wait until something is true."""
    limit = time.monotonic() + seconds
    while not await asyncio.to_thread(true):
        assert time.monotonic() < limit
        await asyncio.sleep(0.1)
