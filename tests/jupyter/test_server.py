"""A kernel's life in a real jupyter_server, as a front end lives through it."""

from __future__ import annotations

import socket

import psutil
import pytest
from backends import Backend, Instance
from frontend import Frontend, Result
from server_process import Server

from kernel_provisioner_core.connection import PORT_NAMES, read_connection_file


def the_one(instances: list[Instance]) -> Instance:
    assert len(instances) == 1, instances
    return instances[0]


def connection_info(server: Server, kernel_id: str) -> dict[str, int]:
    return read_connection_file(server.runtime_dir / f"kernel-{kernel_id}.json")


async def test_a_kernel_executes(frontend: Frontend) -> None:
    async with frontend.kernel("good") as kernel_id:
        result = await frontend.execute(kernel_id, "print(6 * 7)")
    assert (result.status, result.stdout) == ("ok", "42\n")


async def test_an_error_in_a_cell_is_a_result(frontend: Frontend) -> None:
    async with frontend.kernel("good") as kernel_id, frontend.channels(kernel_id) as channels:
        result = await channels.execute("1 / 0")
        assert (result.status, result.error) == ("error", "ZeroDivisionError")
        assert (await channels.execute("print('goes on')")).stdout == "goes on\n"


async def test_a_kernel_asks_and_is_answered(frontend: Frontend) -> None:
    async with frontend.kernel("good") as kernel_id, frontend.channels(kernel_id) as channels:
        result = await channels.execute("print('Hello', input('Who? '))", answer="World")
    assert result.stdout == "Hello World\n"


@pytest.mark.parametrize(
    ("code", "ends"),
    [
        pytest.param(
            "import time; print('begun', flush=True); time.sleep(600)",
            lambda result: result.error == "KeyboardInterrupt",
            id="time.sleep",
        ),
        # IPython reports the interruption of the command in its own words, without an error
        pytest.param("!echo begun; sleep 600", lambda result: True, id="!sleep"),
        pytest.param(
            "import os; print('status', os.system('echo begun; sleep 600'))",
            lambda result: "status 2\n" in result.stdout or result.error == "KeyboardInterrupt",
            id="os.system",
        ),
    ],
)
async def test_what_a_kernel_does_is_interrupted(frontend: Frontend, code: str, ends) -> None:
    async with frontend.kernel("good") as kernel_id, frontend.channels(kernel_id) as channels:
        await channels.execute("kept = 6 * 7")
        running = await channels.begin(code)
        await channels.printed("begun")
        await frontend.interrupt(kernel_id)
        result: Result = await channels.finish(running)
        assert ends(result), result
        assert (await channels.execute("print(kept)")).stdout == "42\n"


async def test_a_restarted_kernel_is_reached_over_the_websocket_that_stayed_open(
    frontend: Frontend, server: Server, backend: Backend
) -> None:
    async with frontend.kernel("good") as kernel_id, frontend.channels(kernel_id) as channels:
        await channels.execute("kept = 1")
        before, first = connection_info(server, kernel_id), the_one(backend.find(kernel_id))
        await frontend.restart(kernel_id)
        await channels.reconnected()
        result = await channels.execute("print('kept' in globals())")
        assert (result.status, result.stdout) == ("ok", "False\n")
        assert connection_info(server, kernel_id) == before
        assert not first.is_running()
        assert the_one(backend.find(kernel_id)) != first


async def test_a_busy_kernel_is_restarted(frontend: Frontend) -> None:
    async with frontend.kernel("good") as kernel_id, frontend.channels(kernel_id) as channels:
        await channels.begin("import time; print('begun', flush=True); time.sleep(600)")
        await channels.printed("begun")
        await frontend.restart(kernel_id)
        await channels.reconnected()
        assert (await channels.execute("print(6 * 7)")).stdout == "42\n"


async def test_a_killed_kernel_comes_back_over_the_websocket_that_stayed_open(
    frontend: Frontend, server: Server, backend: Backend
) -> None:
    async with frontend.kernel("good") as kernel_id, frontend.channels(kernel_id) as channels:
        before, first = connection_info(server, kernel_id), the_one(backend.find(kernel_id))
        first.kill()
        await channels.state("restarting")
        await channels.reconnected()
        assert (await channels.execute("print(6 * 7)")).stdout == "42\n"
        assert connection_info(server, kernel_id) == before
        assert the_one(backend.find(kernel_id)) != first


@pytest.mark.claims("reason")
async def test_the_kernel_list_says_how_a_kernel_ended(
    frontend: Frontend, server: Server, backend: Backend
) -> None:
    async with frontend.kernel("good") as kernel_id, frontend.channels(kernel_id) as channels:
        assert "reason" not in (await frontend.kernels())[kernel_id]
        the_one(backend.find(kernel_id)).kill()
        await channels.state("restarting")
        assert (await frontend.kernels())[kernel_id]["reason"] == "killed by SIGKILL"
        server.log.wait_for(f"Kernel {kernel_id}: killed by SIGKILL")


async def test_two_kernels_run_side_by_side(frontend: Frontend, backend: Backend) -> None:
    async with (
        frontend.kernel("good") as one,
        frontend.kernel("good") as other,
        frontend.channels(one) as its,
        frontend.channels(other) as others,
    ):
        await its.execute("name = 'one'")
        await others.execute("name = 'other'")
        running = await its.begin("import time; print('begun', flush=True); time.sleep(600)")
        await its.printed("begun")
        assert (await others.execute("print(name)")).stdout == "other\n"
        await frontend.interrupt(one)
        assert (await its.finish(running)).error == "KeyboardInterrupt"
        await frontend.shut_down(one)
        assert backend.find(one) == []
        assert (await others.execute("print(name)")).stdout == "other\n"


async def test_nothing_is_left_of_a_kernel_that_was_shut_down(
    frontend: Frontend, server: Server, backend: Backend
) -> None:
    async with frontend.kernel("good") as kernel_id:
        await frontend.execute(kernel_id, "print(1)")
        instance = the_one(backend.find(kernel_id))
        info = connection_info(server, kernel_id)
        assert backend.leftovers(kernel_id, server.runtime_dir)  # it looks in the right places
        await frontend.shut_down(kernel_id)
        assert not instance.is_running()
        assert backend.leftovers(kernel_id, server.runtime_dir) == []
        assert kernel_id not in await frontend.kernels()
    for name in PORT_NAMES:
        assert is_free(str(info["ip"]), info[name]), name


def is_free(ip: str, port: int) -> bool:
    """Return whether the port is neither listened on nor held."""
    # A connection that was closed keeps its port for a minute; then only listening can be tried.
    closed = [c for c in psutil.net_connections("tcp") if c.laddr and c.laddr.port == port]
    with socket.socket() as listener:
        if closed:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((ip, port))
            listener.listen(1)
        except OSError:
            return False
    return True


async def test_no_file_descriptor_of_the_server_is_left_by_a_kernel(
    frontend: Frontend, server: Server
) -> None:
    async def a_life() -> int:
        async with frontend.kernel("good") as kernel_id:
            await frontend.execute(kernel_id, "print(1)")
            await frontend.restart(kernel_id)
        return psutil.Process(server.process.pid).num_fds()

    await a_life()  # what the server opens once and for all
    first = await a_life()
    assert max([await a_life() for _ in range(3)]) <= first + 2  # held ports would be five a kernel


@pytest.mark.claims("server-files")
async def test_a_path_as_the_kernel_sees_it_is_resolved(frontend: Frontend, server: Server) -> None:
    folder = server.directories.notebooks / "folder"
    folder.mkdir()
    (folder / "module.py").write_text("")
    async with frontend.kernel("good", path="folder") as kernel_id:
        answer = await frontend.request("GET", "resolvePath", path="module.py", kernel=kernel_id)
        resolved = {entry["scope"]: entry["path"] for entry in answer.json["resolved"]}
        assert resolved["kernel"] == str(folder.resolve() / "module.py")


@pytest.mark.claims("server-files")
async def test_a_kernel_works_in_the_folder_of_its_notebook(
    frontend: Frontend, server: Server
) -> None:
    folder = server.directories.notebooks / "a folder with spaces"
    folder.mkdir()
    async with frontend.kernel("good", path=folder.name) as kernel_id:
        result = await frontend.execute(kernel_id, "import os; print(os.getcwd())")
    assert result.stdout.strip() == str(folder.resolve())


async def test_a_notebooks_session_brings_its_kernel_and_takes_it_along(
    frontend: Frontend, backend: Backend
) -> None:
    body = {"path": "a.ipynb", "name": "a", "type": "notebook", "kernel": {"name": "good"}}
    answer = await frontend.request("POST", "sessions", body)
    assert answer.status == 201, answer.text
    kernel_id = answer.json["kernel"]["id"]
    assert (await frontend.execute(kernel_id, "print(6 * 7)")).stdout == "42\n"
    await frontend.request("DELETE", f"sessions/{answer.json['id']}")
    assert backend.find(kernel_id) == []
