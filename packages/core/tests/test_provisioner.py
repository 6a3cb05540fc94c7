"""What the base class does for every provisioner, with jupyter_client's real manager and without any."""

import json
import logging
import os
import socket
import stat
from pathlib import Path
from types import SimpleNamespace

import pytest
import traitlets
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import KernelManager

from kernel_provisioner_core import (
    ConfigurationError,
    ConnectionFileWriteError,
    KernelExit,
    KernelProvisionerBase,
    read_connection_file,
)
from kernel_provisioner_core.connection import PORT_NAMES


class Provisioner(KernelProvisionerBase):
    """The least that can be instantiated; it never launches."""

    image = traitlets.Unicode(config=True, help="An option.")
    retries = traitlets.Int(config=True, help="Another one.")
    has_process = False

    async def poll(self):
        return 0

    async def wait(self):
        return 0

    async def send_signal(self, signum):
        pass

    async def kill(self, restart=False):
        pass

    async def terminate(self, restart=False):
        pass

    async def launch_kernel(self, cmd, **kwargs):
        with self._all_or_nothing():
            raise RuntimeError("no kernel today")


@pytest.fixture(autouse=True)
def runtime_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    return tmp_path / "runtime"


@pytest.fixture
def manager(tmp_path):
    """Return a real manager that has started nothing."""
    manager = KernelManager(connection_file=str(tmp_path / "kernel-1.json"))
    manager._kernel_spec = spec()
    manager._launch_args = {}
    yield manager
    manager.cleanup_connection_file()


def spec(config=None, **fields):
    stanza = {"provisioner_name": "some-provisioner", "config": config or {}}
    fields = {
        "argv": ["kernel", "-f", "{connection_file}"],
        "display_name": "K",
        "language": "x",
        **fields,
    }
    metadata = {"kernel_provisioner": stanza, **fields.pop("metadata", {})}
    return KernelSpec(metadata=metadata, **fields)


def make(manager, **kwargs):
    return Provisioner(kernel_id="k-1", kernel_spec=manager.kernel_spec, parent=manager, **kwargs)


def ports_of(manager):
    return [getattr(manager, name) for name in PORT_NAMES]


# -- options


def test_options_arrive_as_keyword_arguments():
    assert Provisioner(kernel_spec=spec({"image": "a"}), image="a").image == "a"


def test_an_unknown_option_of_kernel_json_is_refused_with_the_nearest():
    with pytest.raises(
        ConfigurationError, match=r"Provisioner has no option 'imgae'\. Did you mean 'image'"
    ):
        Provisioner(kernel_spec=spec({"imgae": "a"}), imgae="a")


def test_an_option_of_the_wrong_type_is_refused():
    with pytest.raises(ConfigurationError, match=r"wrong value: .*'retries'") as info:
        Provisioner(kernel_spec=spec({"retries": "many"}), retries="many")
    assert "jupyter provisioner show some-provisioner" in info.value.hint
    assert isinstance(info.value.__cause__, traitlets.TraitError)


def test_what_a_later_caller_may_pass_is_no_error(caplog):
    provisioner = Provisioner(kernel_spec=spec(), something_new=1, log=logging.getLogger("test"))
    assert provisioner.kernel_id is None
    assert "ignores the argument 'something_new'" in caplog.text


def test_kernelspec_manager_and_id_may_be_missing():
    provisioner = Provisioner(kernel_spec=None, parent=None)
    assert provisioner.connection_info == {}


# -- before a launch, with a manager


async def test_the_manager_is_told_held_ports_before_the_launch(manager):
    provisioner = make(manager)
    launch = await provisioner.pre_launch()
    info = provisioner.connection_info
    assert [info[name] for name in PORT_NAMES] == ports_of(manager)
    assert isinstance(info["key"], bytes)
    for port in ports_of(manager):
        with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
            stranger.bind((manager.ip, port))
    assert launch["cmd"] == ["kernel", "-f", os.path.realpath(manager.connection_file)]
    await provisioner.cleanup()


async def test_the_connection_file_says_what_the_manager_says(manager):
    provisioner = make(manager)
    await provisioner.pre_launch(env={"JPY_SESSION_NAME": "a.ipynb"})
    written = read_connection_file(manager.connection_file)
    assert written["key"].encode() == provisioner.connection_info["key"]
    assert written["jupyter_session"] == "a.ipynb"
    await provisioner.cleanup()


async def test_ports_keys_and_file_are_the_same_before_a_restart(manager):
    provisioner = make(manager)
    await provisioner.pre_launch()
    await provisioner.post_launch()
    first = dict(provisioner.connection_info)
    await provisioner.cleanup(restart=True)
    manager.cleanup_random_ports()  # what newports=True does
    await provisioner.pre_launch()
    assert provisioner.connection_info == first
    await provisioner.cleanup()


@pytest.mark.parametrize("damage", ["truncated", "world-readable", "another key", "gone"])
async def test_a_damaged_connection_file_is_written_anew_at_a_restart(manager, damage):
    provisioner = make(manager)
    await provisioner.pre_launch()
    path = Path(manager.connection_file)
    whole = path.read_text()
    if damage == "truncated":
        path.write_text(whole[:40])
    elif damage == "world-readable":
        path.chmod(0o644)
    elif damage == "another key":
        path.write_text(json.dumps({**json.loads(whole), "key": "another"}))
    else:
        path.unlink()
    await provisioner.pre_launch()
    assert json.loads(path.read_text()) == json.loads(whole)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await provisioner.cleanup()


async def test_ports_that_the_user_has_chosen_are_kept(manager):
    with socket.socket() as finder:
        finder.bind(("127.0.0.1", 0))
        manager.shell_port = finder.getsockname()[1]
    provisioner = make(manager)
    await provisioner.pre_launch()
    assert provisioner.connection_info["shell_port"] == manager.shell_port
    await provisioner.cleanup()


async def test_a_chosen_port_that_is_in_use_is_an_error_and_nothing_is_left(manager):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        manager.hb_port = port = listener.getsockname()[1]
        with pytest.raises(ConfigurationError, match=f"Port {port}"):
            await make(manager).pre_launch()
    assert not os.path.exists(manager.connection_file)
    assert sorted(ports_of(manager)) == [0, 0, 0, 0, port]


async def test_an_address_of_another_machine_is_an_error(manager):
    manager.ip = "192.0.2.1"
    with pytest.raises(ConfigurationError, match=r"192\.0\.2\.1"):
        await make(manager).pre_launch()


async def test_ports_taken_after_a_shutdown_are_replaced_at_the_next_start(manager):
    provisioner = make(manager)
    await provisioner.pre_launch()
    await provisioner.cleanup()
    with socket.socket() as thief:
        thief.bind(("127.0.0.1", manager.shell_port))
        thief.listen()
        await provisioner.pre_launch()
        assert provisioner.connection_info["shell_port"] != thief.getsockname()[1]
    await provisioner.cleanup()


async def test_a_failed_first_launch_leaves_nothing(manager):
    provisioner = make(manager)
    launch = await provisioner.pre_launch()
    taken = ports_of(manager)
    with pytest.raises(RuntimeError, match="no kernel today"):
        await provisioner.launch_kernel(**launch)
    assert not os.path.exists(manager.connection_file)
    assert ports_of(manager) == [0] * 5
    for port in taken:
        with socket.socket() as anybody:
            anybody.bind((manager.ip, port))


async def test_a_failed_relaunch_keeps_what_clients_wait_on(manager):
    provisioner = make(manager)
    await provisioner.pre_launch()
    await provisioner.post_launch()
    launch = await provisioner.pre_launch()
    before = ports_of(manager)
    with pytest.raises(RuntimeError):
        await provisioner.launch_kernel(**launch)
    assert ports_of(manager) == before
    assert os.path.exists(manager.connection_file)
    await provisioner.cleanup()


async def test_cleanup_before_a_launch_and_twice_is_harmless(manager):
    provisioner = make(manager)
    await provisioner.cleanup()
    await provisioner.pre_launch()
    await provisioner.cleanup()
    await provisioner.cleanup(restart=True)
    await provisioner.cleanup()
    assert not os.path.exists(manager.connection_file)


async def test_without_a_connection_file_name_one_is_made_and_removed():
    manager = KernelManager()
    manager._kernel_spec, manager._launch_args = spec(), {}
    provisioner = make(manager)
    await provisioner.pre_launch()
    path = manager.connection_file
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    await provisioner.cleanup()
    assert not os.path.exists(path)


async def test_ipc_sockets_are_left_to_the_manager(tmp_path):
    manager = KernelManager(transport="ipc", connection_file=str(tmp_path / "kernel-1.json"))
    manager._kernel_spec, manager._launch_args = spec(), {}
    provisioner = make(manager)
    await provisioner.pre_launch()
    assert provisioner.connection_info["transport"] == "ipc"
    await provisioner.cleanup()


async def test_a_full_disk_is_named_and_nothing_is_left(manager, full_disk):
    manager.connection_file = str(full_disk / "kernel-1.json")
    with pytest.raises(ConnectionFileWriteError, match="No space left on device"):
        await make(manager).pre_launch()
    assert not os.path.exists(manager.connection_file)
    assert ports_of(manager) == [0] * 5


async def test_a_read_only_directory_is_named(manager, read_only_dir):
    manager.connection_file = str(read_only_dir / "kernel-1.json")
    with pytest.raises(ConnectionFileWriteError, match="Read-only file system"):
        await make(manager).pre_launch()


# -- encryption


async def test_curve_keys_are_minted_once_and_kept(manager):
    manager._kernel_spec = spec(metadata={"supported_encryption": ["curve"]})
    provisioner = make(manager)
    await provisioner.pre_launch(transport_encryption="auto")
    first = provisioner.connection_info["curve_secretkey"]
    assert isinstance(first, str)
    assert read_connection_file(manager.connection_file)["curve_secretkey"] == first
    await provisioner.pre_launch(transport_encryption="auto")
    assert provisioner.connection_info["curve_secretkey"] == first
    await provisioner.cleanup()


async def test_the_managers_own_policy_counts(manager):
    manager._kernel_spec = spec(metadata={"supported_encryption": "curve"})
    manager.transport_encryption = "required"
    provisioner = make(manager)
    await provisioner.pre_launch()
    assert manager.curve_publickey
    await provisioner.cleanup()


async def test_encryption_that_cannot_be_had_is_refused_and_nothing_is_left(manager):
    with pytest.raises(ConfigurationError, match="'required'"):
        await make(manager).pre_launch(transport_encryption="required")
    assert not os.path.exists(manager.connection_file)


# -- the environment


async def test_the_environment_is_the_callers_with_the_kernelspecs_on_top(manager):
    manager._kernel_spec = spec(env={"A": "${HOME}/a", "B": "${MISSING}"})
    given = {"HOME": "/h", "C": "c"}
    launch = await make(manager).pre_launch(env=given)
    assert launch["env"] == {"HOME": "/h", "C": "c", "A": "/h/a", "B": "${MISSING}"}
    assert given == {"HOME": "/h", "C": "c"}


async def test_the_environment_is_this_processs_by_default(manager, monkeypatch):
    monkeypatch.setenv("SOME_VARIABLE", "some value")
    launch = await make(manager).pre_launch()
    assert launch["env"]["SOME_VARIABLE"] == "some value"


async def test_a_python_kernel_is_not_told_the_servers_interpreter(manager):
    manager._kernel_spec = spec(language="python")
    launch = await make(manager).pre_launch(env={"PYTHONEXECUTABLE": "/x"})
    assert launch["env"] == {}


async def test_a_command_that_is_given_stays_and_other_arguments_pass_through(manager):
    launch = await make(manager).pre_launch(cmd=["mine"], cwd="/c", something=1)
    assert (launch["cmd"], launch["cwd"], launch["something"]) == (["mine"], "/c", 1)


async def test_extra_arguments_are_appended(manager):
    launch = await make(manager).pre_launch(extra_arguments=["--debug"])
    assert launch["cmd"][-1] == "--debug"


# -- without a manager


async def test_without_a_manager_a_kernel_has_a_connection_file_of_its_own(runtime_dir):
    provisioner = Provisioner(kernel_id="k-1", kernel_spec=spec())
    launch = await provisioner.pre_launch()
    path = launch["cmd"][-1]
    assert Path(path) == runtime_dir / "kernel-k-1.json"
    assert read_connection_file(path)["key"].encode() == provisioner.connection_info["key"]
    await provisioner.cleanup()
    assert not list(runtime_dir.iterdir())


async def test_without_a_manager_python_is_this_interpreter(runtime_dir):
    import sys

    provisioner = Provisioner(kernel_spec=spec(argv=["python3", "-m", "x", "{connection_file}"]))
    launch = await provisioner.pre_launch(extra_arguments=["{prefix}", "{unknown}"])
    assert launch["cmd"][:3] == [sys.executable, "-m", "x"]
    assert launch["cmd"][4:] == [sys.prefix, "{unknown}"]
    await provisioner.cleanup()


# -- persistence


async def test_the_info_is_json_and_loads_into_another_manager(manager):
    provisioner = make(manager)
    await provisioner.pre_launch()
    stored = json.loads(json.dumps(await provisioner.get_provisioner_info()))
    other_manager = KernelManager()
    other = Provisioner(parent=other_manager)
    await other.load_provisioner_info(stored)
    assert other.kernel_id == "k-1"
    assert other.connection_info == provisioner.connection_info
    assert other_manager.get_connection_info() == manager.get_connection_info()
    assert other_manager.connection_file == manager.connection_file
    await provisioner.cleanup()


@pytest.mark.parametrize("info", [{}, {"kernel_id": "k"}, {"kernel_id": "k", "connection_info": 3}])
async def test_an_incomplete_info_is_refused(info):
    with pytest.raises(ConfigurationError, match="incomplete"):
        await Provisioner().load_provisioner_info(info)


# -- small things


def test_the_recommended_times_are_taken():
    provisioner = Provisioner()
    assert provisioner.get_shutdown_wait_time(7.0) == 7.0
    assert provisioner.get_shutdown_wait_time() == 5.0
    assert provisioner.get_stable_start_time() == 10.0
    assert provisioner.resolve_path("a") is None


async def test_keys_are_taken_out_of_texts(manager):
    provisioner = make(manager)
    await provisioner.pre_launch()
    key = provisioner.connection_info["key"].decode()
    assert provisioner._redact(f"key={key}.") == "key=[key]."
    assert key not in repr(provisioner)
    await provisioner.cleanup()


@pytest.mark.parametrize(
    ("ended", "words"),
    [
        (KernelExit(0), "exited with code 0"),
        (KernelExit(-9, "likely out of memory"), "killed by SIGKILL, likely out of memory"),
        (KernelExit(-40), "killed by signal 40"),
        (KernelExit(None), "ended with an unknown exit code"),
        (KernelExit(None, "removed by somebody else"), "removed by somebody else"),
    ],
)
def test_an_exit_is_told_in_words(ended, words):
    assert ended.reason == words


def test_an_unexpected_exit_is_logged_and_told_to_the_server(caplog):
    manager = KernelManager()
    manager.reason = ""
    provisioner = Provisioner(kernel_id="k-1", parent=manager, log=logging.getLogger("test"))
    provisioner._report_exit(KernelExit(1, output="ImportError"))
    assert "Kernel k-1: exited with code 1. Its last output:\nImportError" in caplog.text
    assert manager.reason == "exited with code 1"


def test_a_namespace_serves_as_kernelspec():
    assert Provisioner(kernel_spec=SimpleNamespace(metadata={})).image == ""
