"""What goes wrong with hosts and networks: a clear error or a full recovery each, and nothing left behind."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time

import pytest

from kernel_provisioner_core.errors import BackendUnavailableError, LaunchError

pytestmark = pytest.mark.needs("sshd")


async def refusal(kernel, match, kind=BackendUnavailableError):
    """Start a kernel that must be refused; return the error."""
    with pytest.raises(kind, match=match) as caught:
        await kernel.start()
    assert not kernel.provisioner.has_process
    return caught.value


async def test_a_host_that_cannot_be_resolved(host, kernel):
    host.write_client_config("elsewhere")
    await refusal(kernel(host, host="no-such-host.invalid"), "no-such-host.invalid.*resolved")


async def test_a_port_on_which_nobody_listens(host, kernel):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        await refusal(kernel(host, port=free.getsockname()[1]), "refused")


async def test_a_port_on_which_something_else_is_silent(host, kernel):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        await refusal(kernel(host, port=port, connect_timeout=1.0), "not said that it is an sshd")


async def test_a_key_that_is_not_accepted(sshd, host, kernel):
    other = sshd()
    host.write_client_config("there", f"IdentityFile {other.user_key}")
    text = (host.folder / "ssh_config").read_text().replace(f"  IdentityFile {host.user_key}\n", "")
    (host.folder / "ssh_config").write_text(text)
    error = await refusal(kernel(host), "refuses us as 'root'")
    assert "identity_file" in error.hint


async def test_an_unknown_host_key_is_refused_with_the_command_that_fixes_it(host, kernel):
    (host.folder / "known_hosts").write_text("")
    error = await refusal(kernel(host), "unknown: it shows ssh-ed25519 SHA256:")
    assert f"ssh-keyscan -p {host.port} 127.0.0.1 >> {host.folder}/known_hosts" in error.hint
    command = error.hint.partition(": ")[2]
    subprocess.run(["sh", "-c", command], check=True, stderr=subprocess.DEVNULL)
    there = await kernel(host).start()
    assert await there.execute("print(6 * 7)") == "42\n"


async def test_a_changed_host_key_is_refused_with_the_command_that_fixes_it(sshd, host, kernel):
    other = sshd()
    line = host.known_host.rsplit(" ", 1)[0] + " " + other.known_host.rsplit(" ", 1)[1]
    (host.folder / "known_hosts").write_text(f"{line}\n")
    error = await refusal(kernel(host), "not the one in .*known_hosts")
    assert "ssh-keygen -R" in error.hint
    command = error.hint.partition(": ")[2]
    subprocess.run(["sh", "-c", command], check=True, capture_output=True)
    there = await kernel(host).start()
    assert await there.execute("print(6 * 7)") == "42\n"


async def test_hashed_known_hosts_are_known(host, kernel):
    file = str(host.folder / "known_hosts")
    subprocess.run(["ssh-keygen", "-H", "-f", file], check=True, capture_output=True)
    assert "127.0.0.1" not in (host.folder / "known_hosts").read_text()
    await kernel(host).start()


async def test_a_new_host_is_accepted_and_written_down_where_that_is_wanted(host, kernel):
    (host.folder / "known_hosts").write_text("")
    await kernel(host, strict_host_key_checking="accept-new").start()
    assert host.known_host in (host.folder / "known_hosts").read_text()


async def test_a_certificate_lets_us_in(sshd, tmp_path, kernel):
    authority = tmp_path / "authority"
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(authority)], check=True
    )
    host = sshd(f"TrustedUserCAKeys {authority}.pub", "AuthorizedKeysFile none")
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True)
    await refusal(kernel(host, identity_file=str(key)), "refuses us")
    sign = ["ssh-keygen", "-q", "-s", str(authority), "-I", "test", "-n", "root", f"{key}.pub"]
    subprocess.run(sign, check=True)
    await kernel(host, identity_file=str(key)).start()


async def test_the_agent_lets_us_in(host, kernel, tmp_path, monkeypatch):
    path = str(tmp_path / "agent")
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    try:
        while not os.path.exists(path):
            time.sleep(0.01)
        monkeypatch.setenv("SSH_AUTH_SOCK", path)
        subprocess.run(["ssh-add", "-q", str(host.user_key)], check=True)
        hidden = host.user_key.rename(host.folder / "hidden")
        await kernel(host).start()
        hidden.rename(host.user_key)
    finally:
        agent.terminate()
        agent.wait()


async def test_a_chain_of_jump_hosts_leads_to_the_host(sshd, host, kernel):
    jumps = [sshd(), sshd()]
    text = ""
    for alias, server in zip(("one", "two", "there"), (*jumps, host), strict=True):
        text += server.write_client_config(alias).read_text()
    text += "  ProxyJump one,two\n"
    (host.folder / "ssh_config").write_text(text)
    there = await kernel(host).start()
    assert [len(server.sessions()) for server in (*jumps, host)] == [1, 1, 1]
    assert await there.execute("print(6 * 7)") == "42\n"


async def test_a_proxy_command_leads_to_the_host(host, kernel):
    code = (
        "import socket,sys,os,threading\n"
        "s=socket.create_connection((sys.argv[1],int(sys.argv[2])))\n"
        "def up():\n"
        "  while (d:=os.read(0,65536)): s.sendall(d)\n"
        "threading.Thread(target=up,daemon=True).start()\n"
        "while (d:=s.recv(65536)): os.write(1,d)\n"
    )
    (host.folder / "proxy.py").write_text(code)
    command = f"ProxyCommand {sys.executable} {host.folder}/proxy.py %h %p"
    host.write_client_config("there", command)
    there = await kernel(host).start()
    assert await there.execute("print(6 * 7)") == "42\n"


async def test_a_server_that_does_not_forward_is_named_at_once(sshd, kernel, remote_tmp, until):
    host = sshd("AllowTcpForwarding no")
    begun = time.monotonic()
    error = await refusal(kernel(host), "does not forward", LaunchError)
    assert "AllowTcpForwarding" in error.hint
    assert time.monotonic() - begun < 30
    await until(lambda: not list(remote_tmp.glob("*/*")))


async def test_two_sessions_on_one_connection_are_enough(sshd, kernel):
    host = sshd("MaxSessions 2")
    kernels = [kernel(host) for _ in range(4)]
    await asyncio.gather(*(there.start() for there in kernels))
    assert await kernels[3].execute("print(6 * 7)") == "42\n"


async def test_a_burst_of_connections_is_outlasted(sshd, kernel):
    host = sshd("MaxStartups 2:100:2")
    waiting = [socket.create_connection((host.address, host.port)) for _ in range(2)]
    there = asyncio.ensure_future(kernel(host).start())
    await asyncio.sleep(1)
    for sock in waiting:
        sock.close()
    assert await (await there).execute("print(6 * 7)") == "42\n"


async def test_a_host_that_gives_no_shell(sshd, kernel):
    host = sshd("ForceCommand echo This account is not available.")
    await refusal(kernel(host), "does not run a shell for us: This account is not available")


async def test_a_banner_and_start_up_files_that_print_do_not_disturb(sshd, kernel, tmp_path):
    (tmp_path / "banner").write_text("Welcome!\n" * 50)
    noise = "sh -c 'echo noise; echo more noise >&2; eval \"$SSH_ORIGINAL_COMMAND\"'"
    host = sshd(f"Banner {tmp_path}/banner", f"ForceCommand {noise}")
    there = await kernel(host).start()
    assert await there.execute("print(6 * 7)") == "42\n"


@pytest.mark.parametrize("shell", ["fish", "tcsh", "bash", "dash"])
async def test_a_login_shell_of_any_kind_will_do(sshd, kernel, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    host = sshd(f'ForceCommand {shell} -c "$SSH_ORIGINAL_COMMAND"')
    there = await kernel(host).start()
    assert await there.execute("print(6 * 7)") == "42\n"


async def test_a_directory_that_is_not_private_is_not_used(sshd, kernel, tmp_path):
    host = sshd()
    there = kernel(host)
    taken = tmp_path / "remote" / f"kernel-provisioners-{os.getuid()}"
    taken.mkdir(mode=0o777)
    taken.chmod(0o777)  # anybody could read there
    await there.start()
    assert not str(there.directory).startswith(str(taken))


# -- the connection is lost ---------------------------------------------------------------------


async def test_the_next_execute_works_after_the_connection_was_cut(host, kernel, until):
    there = await kernel(host, keepalive_interval=0.5).start()
    assert await there.execute("x = 6; print(x)") == "6\n"
    old = host.sessions()
    host.end_sessions()
    await until(lambda: host.sessions() and not set(host.sessions()) & set(old))
    await asyncio.sleep(1)
    assert await there.execute("print(x * 7)") == "42\n"
    assert await there.provisioner.poll() is None
    await there.provisioner.kill()
    assert await asyncio.wait_for(there.provisioner.wait(), 30) == -9


async def test_the_kernel_outlives_a_restart_of_sshd(host, kernel, until):
    there = await kernel(host, keepalive_interval=0.5).start()
    assert await there.execute("x = 6; print(x)") == "6\n"
    host.end_sessions()
    host.stop()
    await asyncio.sleep(2)
    assert await there.provisioner.poll() is None
    host.start()
    await until(lambda: host.sessions())
    await asyncio.sleep(2)
    assert await there.execute("print(x * 7)") == "42\n"


async def test_a_kernel_that_died_meanwhile_is_learned_of(host, kernel):
    there = await kernel(host, keepalive_interval=0.5).start()
    host.end_sessions()
    host.stop()
    os.kill(there.pid, 9)
    await asyncio.sleep(1)
    host.start()
    assert await asyncio.wait_for(there.provisioner.wait(), 30) == -9


async def test_a_host_that_stays_away_counts_as_dead_after_the_stated_time(host, kernel, until):
    there = await kernel(host, keepalive_interval=0.5, lost_timeout=3.0).start()
    pid = there.pid
    host.end_sessions()
    host.stop()
    begun = time.monotonic()
    while await there.provisioner.poll() is None:
        await asyncio.sleep(0.1)
        assert time.monotonic() - begun < 30
    assert time.monotonic() - begun > 2
    assert "out of reach" in there.provisioner.last_exit.reason
    await until(lambda: not os.path.exists(f"/proc/{pid}"))  # it has ended by itself


async def test_a_connection_cut_during_a_launch_leaves_nothing(host, kernel, remote_tmp, until):
    there = kernel(host, ["sh", "-c", "sleep 100 # {connection_file}"], launch_timeout=5)
    launch = asyncio.ensure_future(there.start())
    await until(lambda: list(remote_tmp.glob("*/*/pid")))
    host.end_sessions()
    with pytest.raises((LaunchError, BackendUnavailableError)):
        await launch
    await until(lambda: not list(remote_tmp.glob("*/test-*")))


# -- packets are dropped ------------------------------------------------------------------------


class Network:
    """A network namespace with an address that this machine reaches, and a switch that drops all its packets."""

    def __init__(self, number: int) -> None:
        self.name = f"kp-ssh-{os.getpid()}-{number}"
        self.device = f"kps{os.getpid() % 100000}{number}"
        self.near, self.address = f"10.214.{os.getpid() % 250}.1", f"10.214.{os.getpid() % 250}.2"

    def up(self) -> None:
        inside = ["ip", "netns", "exec", self.name]
        for command in (
            ["ip", "netns", "add", self.name],
            [
                "ip",
                "link",
                "add",
                self.device,
                "type",
                "veth",
                "peer",
                "name",
                "inner",
                "netns",
                self.name,
            ],
            ["ip", "address", "add", f"{self.near}/30", "dev", self.device],
            ["ip", "link", "set", self.device, "up"],
            [*inside, "ip", "address", "add", f"{self.address}/30", "dev", "inner"],
            [*inside, "ip", "link", "set", "inner", "up"],
            [*inside, "ip", "link", "set", "lo", "up"],
        ):
            subprocess.run(command, check=True, capture_output=True)

    def drop(self, on: bool = True) -> None:
        for chain, flag in (("INPUT", "-i"), ("OUTPUT", "-o")):
            rule = [chain, flag, "inner", "-j", "DROP"]
            command = ["ip", "netns", "exec", self.name, "iptables", "-A" if on else "-D", *rule]
            subprocess.run(command, check=True, capture_output=True)

    def down(self) -> None:
        subprocess.run(["ip", "netns", "delete", self.name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "delete", self.device], check=False, capture_output=True)


@pytest.fixture
def network():
    if os.geteuid() != 0 or not shutil.which("iptables"):
        pytest.skip("network namespaces need root, iproute2 and iptables")
    network = Network(0)
    try:
        network.up()
    except subprocess.CalledProcessError as error:
        network.down()
        pytest.skip(f"no network namespace can be made here: {error.stderr}")
    yield network
    network.down()


@pytest.fixture
def far(sshd, network):
    """Return an sshd behind a network whose packets can be dropped."""
    return sshd(address=network.address, port=2222, namespace=network.name)


async def test_a_host_that_drops_all_packets_is_given_up_in_time(far, network, kernel):
    network.drop()
    begun = time.monotonic()
    await refusal(kernel(far, connect_timeout=2.0), "not answered within 2 s")
    assert time.monotonic() - begun < 15


async def test_nothing_is_lost_in_a_short_outage(far, network, kernel):
    there = await kernel(far, keepalive_interval=1.0).start()
    await there.connect()
    code = "import time\nfor i in range(60): print(i, flush=True); time.sleep(0.1)"
    running = asyncio.ensure_future(there.execute(code, 90))
    await asyncio.sleep(1.5)
    old = far.sessions()
    network.drop()
    await asyncio.sleep(4)
    assert await there.provisioner.poll() is None
    assert there.provisioner._liveness.unknown_seconds > 0
    network.drop(on=False)
    assert (await running).split() == [str(i) for i in range(60)]
    assert set(old) <= set(far.sessions())  # the connection is the old one


async def test_a_connection_that_does_not_come_back_is_replaced(far, network, kernel, until):
    there = await kernel(far, keepalive_interval=1.0).start()
    assert await there.execute("x = 6; print(x)") == "6\n"
    connection = there.provisioner._connection
    old = connection._client
    local = old._transport.sock.getsockname()[1]
    rule = ["INPUT", "-p", "tcp", "--sport", str(local), "-j", "DROP"]
    enter = ["ip", "netns", "exec", network.name, "iptables", "-A"]
    subprocess.run([*enter, *rule], check=True, capture_output=True)
    sessions = far.sessions()
    await until(lambda: connection._client is not old, 60)
    await until(lambda: not set(sessions) & set(far.sessions()))  # the old one has ended there
    assert await there.execute("print(x * 7)", 60) == "42\n"
