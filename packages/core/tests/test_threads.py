"""The funnel to threads: no loop is held, and what is given up is waited for and undone."""

import asyncio
import threading

import pytest

from kernel_provisioner_core.threads import in_thread, start_thread


async def test_the_result_of_a_blocking_call_is_awaited():
    assert await in_thread(lambda a, b: a + b, 40, 2) == 42


async def test_an_exception_of_a_blocking_call_is_raised_where_it_is_awaited():
    def fail():
        raise KeyError("x")

    with pytest.raises(KeyError):
        await in_thread(fail)


async def test_the_loop_goes_on_meanwhile():
    release = threading.Event()
    call = asyncio.ensure_future(in_thread(release.wait, 30))
    await asyncio.sleep(0)
    release.set()
    assert await asyncio.wait_for(call, 30)


async def test_any_number_of_calls_run_at_once():
    barrier = threading.Barrier(50)
    await asyncio.wait_for(asyncio.gather(*[in_thread(barrier.wait, 30) for _ in range(50)]), 60)


async def test_a_cancellation_waits_for_the_call_and_undoes_it():
    began, release, undone = threading.Event(), threading.Event(), []

    def make():
        began.set()
        assert release.wait(30)
        return "container"

    call = asyncio.ensure_future(in_thread(make, undo=undone.append))
    await in_thread(began.wait, 30)
    call.cancel()
    await asyncio.sleep(0)
    call.cancel()  # impatient
    await asyncio.sleep(0)
    assert not call.done()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert undone == ["container"]


async def test_a_failed_call_that_is_cancelled_has_nothing_to_undo():
    began, release, undone = threading.Event(), threading.Event(), []

    def fail():
        began.set()
        assert release.wait(30)
        raise KeyError("x")

    call = asyncio.ensure_future(in_thread(fail, undo=undone.append))
    await in_thread(began.wait, 30)
    call.cancel()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert undone == []


async def test_a_cancellation_tells_a_call_that_looks_for_it():
    began, stop = threading.Event(), threading.Event()

    def pull():
        began.set()
        assert stop.wait(30)

    call = asyncio.ensure_future(in_thread(pull, stop=stop))
    await in_thread(began.wait, 30)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


def test_a_thread_left_behind_does_not_hold_up_the_interpreter():
    assert start_thread(threading.current_thread).result(30).daemon


def test_each_event_loop_run_may_use_it():
    for _ in range(20):
        assert asyncio.run(in_thread(lambda: 42)) == 42
