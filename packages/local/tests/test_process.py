"""A kernel's process: its end is noticed at once and truly, its signals reach no stranger."""

import asyncio
import os
import signal
import subprocess
import sys
import threading

import pytest

from kernel_provisioner_core import KernelNotFoundError, launch_kernel
from kernel_provisioner_core.exits import UNKNOWN_EXIT_CODE
from kernel_provisioner_core.processes import ProcessIdentity
from kernel_provisioner_local import process as process_module
from kernel_provisioner_local.process import AdoptedProcess, ChildProcess

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="signals and groups are POSIX")


@pytest.fixture(params=["pidfd", "thread"])
def start(request, monkeypatch):
    """Return a function that starts a process, noticed by a pidfd and, as elsewhere, by a thread."""
    if request.param == "pidfd":
        if not hasattr(os, "pidfd_open"):
            pytest.skip("only Linux has pidfds")
    else:
        monkeypatch.setattr(process_module, "_open_pidfd", lambda pid: None)
    started = []

    def start(*cmd, **kw):
        child = ChildProcess(launch_kernel(list(cmd), **kw))
        started.append(child)
        return child

    yield start
    for child in started:
        child.signal_group(signal.SIGKILL)
        asyncio.run(asyncio.wait_for(child.wait(), 30))
        child.reap()


@pytest.mark.parametrize(
    ("script", "code"),
    [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", -9), ("kill -SEGV $$", -11)],
)
async def test_the_exit_code_is_the_real_one(start, script, code):
    child = start("sh", "-c", script)
    assert await asyncio.wait_for(child.wait(), 30) == code
    assert child.exit_code() == code
    child.reap()
    assert child.exit_code() == code


async def test_a_running_process_has_no_exit_code(start):
    assert start("sleep", "60").exit_code() is None


async def test_several_tasks_may_wait_and_one_may_give_up(start):
    child = start("sleep", "60")
    waiters = [asyncio.create_task(child.wait()) for _ in range(3)]
    await asyncio.sleep(0)
    waiters[0].cancel()
    child.signal_group(signal.SIGTERM)
    done = await asyncio.wait_for(asyncio.gather(*waiters, return_exceptions=True), 30)
    assert isinstance(done[0], asyncio.CancelledError)
    assert done[1:] == [-15, -15]


def test_several_event_loops_may_wait(start):
    child = start("sleep", "60")
    codes = []
    threads = [
        threading.Thread(target=lambda: codes.append(asyncio.run(child.wait()))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    child.signal_group(signal.SIGTERM)
    for thread in threads:
        thread.join(30)
    assert codes == [-15] * 3


def test_a_wait_in_one_loop_may_be_given_up_and_taken_up_in_another(start):
    child = start("sleep", "60")
    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(asyncio.wait_for(child.wait(), 0.05))
    child.signal_group(signal.SIGTERM)
    assert asyncio.run(child.wait()) == -15


async def test_an_ended_process_keeps_its_pid_until_it_is_reaped(start):
    child = start("true")
    await asyncio.wait_for(child.wait(), 30)
    os.kill(child.pid, 0)  # a zombie: nobody else can have the pid
    child.reap()
    with pytest.raises(ProcessLookupError):
        os.kill(child.pid, 0)


async def test_what_a_dead_kernel_has_left_running_is_still_reached(start):
    child = start("sh", "-c", "sleep 60 & echo $!", stdout=subprocess.PIPE)
    orphan = int(child._popen.stdout.readline())
    await asyncio.wait_for(child.wait(), 30)
    child.signal_group(signal.SIGKILL)
    gone = os.pidfd_open(orphan) if _exists(orphan) else None
    if gone is not None:
        loop = asyncio.get_running_loop()
        ended = loop.create_future()
        loop.add_reader(gone, lambda: ended.done() or ended.set_result(None))
        await asyncio.wait_for(ended, 30)
        loop.remove_reader(gone)
        os.close(gone)


async def test_signals_after_the_reaping_are_silent_and_reach_nobody(start):
    child = start("true")
    await asyncio.wait_for(child.wait(), 30)
    child.reap()
    child.signal_group(signal.SIGKILL)
    child.reap()


async def test_a_signal_reaches_the_children_too(start):
    child = start("sh", "-c", "trap 'exit 7' INT; sleep 60 & wait; wait")
    await _children_of(child.pid)
    child.signal_group(signal.SIGINT)
    assert await asyncio.wait_for(child.wait(), 30) == 7


async def test_a_process_without_a_group_of_its_own_is_signalled_alone(start):
    child = start("sleep", "60", start_new_session=False)  # in this test's group
    child.signal_group(signal.SIGTERM)
    assert await asyncio.wait_for(child.wait(), 30) == -15


async def test_a_process_that_somebody_else_has_reaped_counts_as_ended(start):
    child = start("true")
    os.waitpid(child.pid, 0)
    assert await asyncio.wait_for(child.wait(), 30) == UNKNOWN_EXIT_CODE


async def test_no_descriptor_is_left(start):
    child = start("true")
    await asyncio.wait_for(child.wait(), 30)
    before = _descriptors()
    other = start("true")
    await asyncio.wait_for(other.wait(), 30)
    other.reap()
    assert _descriptors() == before


# -- adopted processes


@pytest.fixture
def stranger():
    """Start a process that is no child of this one; return its identity."""
    code = (
        "import subprocess\n"
        "none = subprocess.DEVNULL\n"
        "p = subprocess.Popen(['sleep', '60'], start_new_session=True, stdout=none, stderr=none)\n"
        "print(p.pid)\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    identity = ProcessIdentity.of(int(out.stdout))
    yield identity
    if identity.is_running():
        os.kill(identity.pid, signal.SIGKILL)


@pytest.fixture(params=["pidfd", "thread"])
def adopted(request, monkeypatch, stranger):
    if request.param == "thread":
        monkeypatch.setattr(process_module, "_open_pidfd", lambda pid: None)
    process = AdoptedProcess(stranger)
    yield process
    process.reap()


async def test_the_end_of_an_adopted_process_is_noticed(adopted):
    assert adopted.exit_code() is None
    waiter = asyncio.create_task(adopted.wait())
    await asyncio.sleep(0)
    adopted.signal_group(signal.SIGTERM)
    assert await asyncio.wait_for(waiter, 30) == UNKNOWN_EXIT_CODE
    adopted.signal_group(signal.SIGTERM)


def test_a_reused_pid_is_not_adopted():
    me = ProcessIdentity.of_this_process()
    with pytest.raises(KernelNotFoundError, match=f"process {me.pid} has ended"):
        AdoptedProcess(ProcessIdentity(me.pid, "1@another-boot"))


async def test_a_reused_pid_is_not_signalled(adopted, stranger):
    adopted._identity = ProcessIdentity(stranger.pid, "1@another-boot")
    adopted.signal_group(signal.SIGKILL)
    assert stranger.is_running()


def _exists(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _descriptors():
    return sorted(os.listdir("/proc/self/fd"))


async def _children_of(pid):
    """Wait until a process has a child."""
    path = f"/proc/{pid}/task/{pid}/children"
    for _ in range(3000):
        with open(path) as file:
            if file.read().strip():
                return
        await asyncio.sleep(0.01)
    raise AssertionError("the process has started no child within 30 s")
