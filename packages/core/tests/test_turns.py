"""Launches at once take turns in the event loop."""

import asyncio
import itertools

import pytest

from kernel_provisioner_core.turns import turn


async def test_a_launch_that_comes_alone_does_not_suspend():
    steps = turn()
    with pytest.raises(StopIteration):
        steps.send(None)
    steps = turn()  # nor does its next step
    with pytest.raises(StopIteration):
        steps.send(None)


async def test_between_two_launches_others_have_the_loop():
    seen = []

    async def launch(name):
        await turn()
        seen.append(name)
        await turn()
        seen.append(name)

    def other():
        seen.append("other")
        if seen.count("c") < 2:
            loop.call_soon(other)

    loop = asyncio.get_running_loop()
    loop.call_soon(other)
    await asyncio.gather(*(launch(name) for name in "abc"))
    launches = [name for name in seen if name != "other"]
    assert launches == ["a", "a", "b", "c", "b", "c"]  # when "a" began, nobody else was waiting
    after = seen[seen.index("b") :]
    for one, next_one in itertools.pairwise(after):
        assert "other" in (one, next_one)


async def test_a_cancelled_launch_gives_its_turn_to_the_next():
    launches = [asyncio.ensure_future(turn()) for _ in range(4)]
    await asyncio.sleep(0)
    launches[1].cancel()
    launches[2].cancel()
    _, pending = await asyncio.wait(launches, timeout=10)
    assert not pending
    assert [launch.cancelled() for launch in launches] == [False, True, True, False]


def test_an_event_loop_that_ended_in_the_middle_of_a_launch_holds_up_nobody():
    for _ in range(3):
        asyncio.run(turn())

    loop = asyncio.new_event_loop()  # as jupyter_client's blocking manager: one loop, many runs
    try:
        for _ in range(3):
            loop.run_until_complete(asyncio.wait_for(turn(), 10))
    finally:
        loop.close()
