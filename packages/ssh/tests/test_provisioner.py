"""Kernels on a host, through its sshd."""

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from kernel_provisioner_core.errors import (
    BackendUnavailableError,
    CommandNotFoundError,
    ConfigurationError,
    KernelNotFoundError,
    LaunchError,
)
from kernel_provisioner_ssh import SSHProvisioner

pytestmark = pytest.mark.needs("sshd")


async def test_a_kernel_that_chooses_its_ports_is_reached(host, kernel, ipykernel_argv):
    there = await kernel(host, ipykernel_argv).start()
    assert await there.execute("print(6 * 7)") == "42\n"


async def test_a_kernel_with_ports_of_the_hosts_choice_is_reached(host, kernel):
    there = await kernel(host).start()
    assert there.provisioner._handle["writes_ports_back"] is False
    assert await there.execute("print(6 * 7)") == "42\n"


async def test_taken_ports_are_chosen_anew(host, kernel, tmp_path, tiny_argv):
    count = tmp_path / "count"
    script = f"""
        echo x >> {count}
        if [ $(wc -l < {count}) = 1 ]; then echo "zmq.error.ZMQError: Address already in use"; exit 1; fi
        exec "$@"
    """
    there = await kernel(host, ["/bin/sh", "-c", script, "sh", *tiny_argv]).start()
    assert await there.execute("print(6 * 7)") == "42\n"
    assert len(count.read_text().split()) == 2


async def test_the_connection_file_is_private_and_the_key_is_nowhere_else(
    host, kernel, processes_with, tiny_argv
):
    there = await kernel(host, tiny_argv).start()
    (file,) = there.directory.glob("kernel-*.json")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(there.directory.stat().st_mode) == 0o700
    key = there.provisioner.connection_info["key"].decode()
    assert json.loads(file.read_text())["key"] == key
    assert json.loads(file.read_text())["ip"] == "127.0.0.1"
    for path in there.directory.iterdir():
        if path != file and path.is_file():
            assert key not in path.read_text()
    assert not processes_with(key)
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            environ = Path("/proc", pid, "environ").read_bytes()
        except OSError:
            continue
        assert key.encode() not in environ


async def test_nothing_is_left_at_the_end(host, kernel, remote_tmp, until, runs, processes_with):
    there = await kernel(host).start()
    pid, directory = there.pid, there.directory
    await there.end()
    assert not runs(pid)
    assert not directory.exists()
    await until(lambda: not list(remote_tmp.glob("*/*")))
    await until(lambda: not processes_with(directory.name))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("import os; os._exit(7)", 7),
        ("import os; os.kill(os.getpid(), 9)", -9),
        ("import os; os.kill(os.getpid(), 11)", -11),
    ],
)
async def test_the_exit_code_is_the_kernels_own(host, kernel, code, expected):
    there = await kernel(host).start()
    client = await there.connect()
    client.execute(code)
    assert await asyncio.wait_for(there.provisioner.wait(), 30) == expected
    assert await there.provisioner.poll() == expected


async def test_kill_is_told_as_such_and_ends_what_the_kernel_started(host, kernel, until, runs):
    there = await kernel(host).start()
    pid = int(
        await there.execute("import subprocess; print(subprocess.Popen(['sleep', '1000']).pid)")
    )
    await there.provisioner.kill()
    assert await asyncio.wait_for(there.provisioner.wait(), 30) == -9
    await until(lambda: not runs(pid))


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize(
    "code", ["import time; time.sleep(60)", "import os; os.system('sleep 60')"]
)
async def test_an_interrupt_reaches_what_the_kernel_runs(
    host, kernel, code, wrapped, ipykernel_argv
):
    argv = ["sh", "-c", '"$@"; exit $?', "sh", *ipykernel_argv] if wrapped else ipykernel_argv
    there = await kernel(host, argv).start()
    await there.connect()
    running = asyncio.ensure_future(there.execute(code))
    await asyncio.sleep(1)
    begun = asyncio.get_running_loop().time()
    await there.provisioner.send_signal(signal.SIGINT)
    await running
    assert asyncio.get_running_loop().time() - begun < 10
    assert await there.execute("print(6 * 7)") == "42\n"


async def test_a_signal_to_a_reused_pid_is_not_sent(host, kernel):
    there = await kernel(host).start()
    stranger = subprocess.Popen(["sleep", "100"], stdin=subprocess.DEVNULL)
    try:
        pid, began, group = (there.directory / "pid").read_text().split()
        (there.directory / "pid").write_text(f"{stranger.pid} {began} {stranger.pid}\n")
        with pytest.raises(KernelNotFoundError):
            there.provisioner.signal(there.provisioner._handle, signal.SIGTERM)
        assert stranger.poll() is None
        (there.directory / "pid").write_text(f"{pid} {began} {group}\n")
    finally:
        stranger.kill()
        stranger.wait()


async def test_a_restart_keeps_ports_and_clients(host, kernel):
    there = await kernel(host).start()
    assert await there.execute("x = 1; print(x)") == "1\n"
    ports = dict(there.provisioner.connection_info)
    await there.provisioner.kill()
    await there.provisioner.wait()
    await there.provisioner.cleanup(restart=True)
    await there.start()
    assert dict(there.provisioner.connection_info) == ports
    assert await there.execute("print('x' in globals())") == "False\n"


async def test_a_command_that_does_not_exist_is_named(host, kernel, remote_tmp, until):
    with pytest.raises(CommandNotFoundError, match="no-such-kernel"):
        await kernel(host, ["no-such-kernel", "{connection_file}"]).start()
    await until(lambda: not list(remote_tmp.glob("*/*")))


async def test_a_working_directory_that_does_not_exist_is_named(host, kernel):
    with pytest.raises(CommandNotFoundError, match="/no/such directory"):
        await kernel(host, working_dir="/no/such directory").start()


async def test_a_kernel_that_dies_at_its_start_has_its_last_words_quoted(host, kernel):
    with pytest.raises(LaunchError, match="exited with code 3") as caught:
        await kernel(host, ["sh", "-c", "echo I cannot go on >&2; exit 3"]).start()
    assert "I cannot go on" in caught.value.output


async def test_the_log_is_bounded_and_has_the_end(host, kernel, until):
    there = await kernel(host).start()
    await there.execute(
        "import os\nfor i in range(400): os.write(1, b'x' * 8191 + b'\\n')\nos.write(1, b'the end\\n')"
    )
    await until(lambda: there.provisioner.get_logs(100).endswith("the end\n"))
    sizes = [path.stat().st_size for path in there.directory.glob("log*")]
    assert sum(sizes) <= 2 << 20


async def test_environment_working_directory_and_setup(host, kernel, tmp_path):
    there = await kernel(
        host,
        spec={"env": {"OF_SPEC": "a 'b' \"c\" $(id) \n;d"}},
        env={"OF_OPTION": "e"},
        setup=["export OF_SETUP='it is'", "cd ."],
        working_dir=str(tmp_path),
    ).start(env={**os.environ, "SECRET_OF_SERVER": "1", "LANG": "C.UTF-8"})
    code = "import os; print([os.environ.get(n) for n in names], os.getcwd())".replace(
        "names", "('OF_SPEC', 'OF_OPTION', 'OF_SETUP', 'SECRET_OF_SERVER', 'LANG')"
    )
    values = ["a 'b' \"c\" $(id) \n;d", "e", "it is", None, "C.UTF-8"]
    assert await there.execute(code) == f"{values} {tmp_path}\n"


async def test_a_setup_that_fails_ends_the_launch_and_is_named(host, kernel):
    with pytest.raises(LaunchError, match="setup failed: false"):
        await kernel(host, setup=["true", "false"]).start()
    with pytest.raises(LaunchError, match=r"code 2|setup failed: if"):
        await kernel(host, setup=["if"]).start()


async def test_nothing_in_names_and_values_is_executed(host, kernel, tmp_path):
    evil = f"x'\"; touch {tmp_path}/evil; $(touch {tmp_path}/evil) `touch {tmp_path}/evil`\n #"
    config = {"spec": {"env": {"A": evil}}, "env": {"B": evil.replace("$", "$$")}}
    there = await kernel(host, kernel_id=evil, **config).start()
    assert await there.execute("print(6 * 7)") == "42\n"
    for config in ({"working_dir": evil}, {"kernel": evil}):
        with pytest.raises(LaunchError):
            await kernel(host, **config).start()
    for config in (
        {"user": evil},
        {"host": evil},
        {"proxy_jump": evil},
        {"user": "-oProxyCommand=x"},
    ):
        with pytest.raises(ConfigurationError):
            await kernel(host, **config).start()
    assert not (tmp_path / "evil").exists()


@pytest.fixture
def remote_kernelspec(tmp_path, tiny_argv):
    """Return the prefix of an environment with the kernelspec `tiny`."""
    folder = tmp_path / "prefix" / "share" / "jupyter" / "kernels" / "Tiny"
    folder.mkdir(parents=True)
    (folder / "resource").write_text("")
    binaries = tmp_path / "prefix" / "bin"
    binaries.mkdir()
    (binaries / "python3").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (binaries / "python3").chmod(0o755)
    spec = {
        "argv": ["python3", *tiny_argv[1:]],
        "env": {"OF_THERE": "yes", "RESOURCES": "no"},
        "display_name": "Tiny",
        "interrupt_mode": "message",
    }
    (folder / "kernel.json").write_text(json.dumps(spec))
    return tmp_path / "prefix"


async def test_a_kernelspec_of_the_host_is_used(host, kernel, remote_kernelspec):
    there = await kernel(
        host, [], kernel="tiny", setup=[f"export VIRTUAL_ENV={remote_kernelspec}"]
    ).start()
    assert await there.execute("import os; print(os.environ['OF_THERE'])") == "yes\n"
    assert there.spec.interrupt_mode == "message"


async def test_a_kernelspec_that_is_not_there_is_an_error_with_those_that_are(
    host, kernel, remote_kernelspec
):
    with pytest.raises(LaunchError, match="Tiny"):
        await kernel(
            host, [], kernel="R", setup=[f"export VIRTUAL_ENV={remote_kernelspec}"]
        ).start()


async def test_25_kernels_run_under_the_default_limits(host, kernel):
    kernels = [kernel(host) for _ in range(25)]
    await asyncio.gather(*(there.start() for there in kernels))
    assert len(host.sessions()) == 1
    for there in kernels[::8]:
        assert await there.execute("print(6 * 7)") == "42\n"


async def test_paths_are_mapped_both_ways(host, kernel, tmp_path):
    here, other = tmp_path / "here", tmp_path / "there"
    (here / "sub").mkdir(parents=True)
    (other / "sub").mkdir(parents=True)
    (here / "sub" / "code.py").write_text("")
    there = await kernel(host, path_map={str(here): str(other)}).start(cwd=str(here / "sub"))
    assert await there.execute("import os; print(os.getcwd())") == f"{other}/sub\n"
    resolve = there.provisioner.resolve_path
    assert resolve(f"{other}/sub/code.py") == f"{here}/sub/code.py"
    assert resolve("code.py") == f"{here}/sub/code.py"
    assert resolve("/elsewhere/code.py") is None


async def test_a_fresh_process_adopts_a_kernel(host, kernel):
    there = await kernel(host, persist=True).start()
    info = json.loads(json.dumps(await there.provisioner.get_provisioner_info()))
    config = there.spec.metadata["kernel_provisioner"]["config"]
    code = f"""
import asyncio, json
from kernel_provisioner_ssh import SSHProvisioner
async def adopt():
    provisioner = SSHProvisioner(**{config!r})
    await provisioner.load_provisioner_info(json.loads({json.dumps(json.dumps(info))}))
    print(await provisioner.poll())
    await provisioner.kill()
    print(await provisioner.wait())
asyncio.run(adopt())
"""
    done = await asyncio.create_subprocess_exec(
        sys.executable, "-c", code, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
    )
    printed, _ = await asyncio.wait_for(done.communicate(), 60)
    assert printed.split() == [b"None", b"-9"]
    assert await asyncio.wait_for(there.provisioner.wait(), 30) == -9


SERVER = """
import asyncio, json, sys
from kernel_provisioner_ssh import SSHProvisioner
from types import SimpleNamespace
async def serve():
    spec = SimpleNamespace(argv={argv!r}, env={{}}, metadata={{}}, display_name="", language="")
    provisioner = SSHProvisioner(kernel_id="of-server", kernel_spec=spec, **{config!r})
    kwargs = await provisioner.pre_launch()
    await provisioner.launch_kernel(kwargs.pop("cmd"), **kwargs)
    await provisioner.post_launch()
    print(json.dumps(await provisioner.get_provisioner_info()), flush=True)
    await asyncio.sleep(600)
asyncio.run(serve())
"""


async def serve(config, tiny_argv):
    """Start a server that launches a kernel; return it and the provisioner info."""
    server = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        SERVER.format(argv=tiny_argv, config=config),
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    line = await asyncio.wait_for(server.stdout.readline(), 60)
    return server, json.loads(line)


async def test_the_kernel_of_a_killed_server_ends_by_itself(
    host, remote_tmp, until, runs, tiny_argv
):
    config = {"host": "there", "ssh_config": f"{host.folder}/ssh_config", "lost_timeout": 2}
    server, info = await serve(config, tiny_argv)
    pid = int(Path(info["handle"]["directory"], "pid").read_text().split()[0])
    await asyncio.sleep(4)
    assert runs(pid)  # the lease is renewed
    server.kill()
    await server.wait()
    await until(lambda: not runs(pid))
    await until(lambda: not list(remote_tmp.glob("*/*")))


async def test_a_persistent_kernel_of_a_killed_server_is_adopted_and_works(
    host, kernel, runs, tiny_argv
):
    config = {
        "host": "there",
        "ssh_config": f"{host.folder}/ssh_config",
        "lost_timeout": 1,
        "persist": True,
    }
    server, info = await serve(config, tiny_argv)
    server.kill()
    await server.wait()
    await asyncio.sleep(3)
    there = kernel(host, **config)
    await there.provisioner.load_provisioner_info(info)
    assert await there.provisioner.poll() is None
    assert await there.execute("print(6 * 7)") == "42\n"
    pid = there.pid
    await there.end()
    assert not runs(pid)


async def test_a_kernel_that_is_gone_is_not_adopted(host, kernel):
    there = await kernel(host).start()
    info = await there.provisioner.get_provisioner_info()
    config = there.spec.metadata["kernel_provisioner"]["config"]
    await there.end()
    with pytest.raises(KernelNotFoundError):
        await SSHProvisioner(**config).load_provisioner_info(info)


async def test_a_doctor_sees_each_stage_of_the_way(host, kernel, until):
    stages = []
    kernel(host).provisioner.check_connection(stages.append)
    names = [stage.name.removeprefix("there: ") for stage in stages]
    assert names == [
        "resolve",
        "connect",
        "agree on encryption",
        "host key",
        "authenticate",
        "shell",
        "runtime directory",
        "kernel command",
        "tunnel",
    ]
    with pytest.raises(BackendUnavailableError, match=r"kernel command cannot be had: no-such"):
        kernel(host, ["no-such"]).provisioner.check_connection(stages.append)
    await until(lambda: not host.sessions())


async def test_a_kernel_that_does_not_write_its_ports_back_is_given_fixed_ones(
    host, kernel, tiny_argv
):
    # looks like an ipykernel, and is an old one: with port 0 it listens somewhere, and tells nobody
    argv = ["sh", "-c", '"$@"', "ipykernel", *tiny_argv]
    there = await kernel(host, argv, launch_timeout=10).start()
    assert there.provisioner._handle["writes_ports_back"] is False
    assert await there.execute("print(6 * 7)") == "42\n"
