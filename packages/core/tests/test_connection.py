"""Connection files: private from birth, whole or not there, and checked when read."""

import json
import os
import stat
import threading

import pytest

from kernel_provisioner_core import (
    ConfigurationError,
    ConnectionFileInvalidError,
    ConnectionFileNotFoundError,
    ConnectionFileWriteError,
    find_connection_file,
    read_connection_file,
    write_connection_file,
)
from kernel_provisioner_core.connection import PORT_NAMES, jupyter_runtime_dir, write_private_file


def test_a_written_file_reads_back(tmp_path):
    path, info = write_connection_file(tmp_path / "kernel-1.json", key=b"secret", kernel_name="k")
    assert read_connection_file(path) == info
    assert info["key"] == "secret"
    assert info["ip"] == "127.0.0.1"


def test_given_ports_are_kept_and_the_others_chosen(tmp_path):
    _, info = write_connection_file(tmp_path / "k.json", shell_port=4711)
    assert info["shell_port"] == 4711
    assert len({info[name] for name in PORT_NAMES}) == 5
    assert all(info[name] > 0 for name in PORT_NAMES)


def test_a_file_is_written_to_the_temporary_directory_by_default():
    path, _ = write_connection_file()
    try:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    finally:
        os.unlink(path)


def test_curve_keys_are_written_as_text(tmp_path):
    _, info = write_connection_file(
        tmp_path / "k.json", curve_publickey=b"public", curve_secretkey=b"private"
    )
    assert (info["curve_publickey"], info["curve_secretkey"]) == ("public", "private")


def test_further_entries_are_taken_over(tmp_path):
    _, info = write_connection_file(tmp_path / "k.json", jupyter_session="a.ipynb")
    assert info["jupyter_session"] == "a.ipynb"


def test_ipc_counts_up_over_existing_sockets(tmp_path):
    (tmp_path / "sock-1").touch()
    _, info = write_connection_file(
        tmp_path / "k.json", transport="ipc", ip=str(tmp_path / "sock"), hb_port=2
    )
    assert sorted(info[name] for name in PORT_NAMES) == [2, 3, 4, 5, 6]


def test_an_unknown_transport_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="'udp'"):
        write_connection_file(tmp_path / "k.json", transport="udp")
    assert not list(tmp_path.iterdir())


def test_the_file_is_private_whatever_the_umask(tmp_path):
    old = os.umask(0)
    try:
        path, _ = write_connection_file(tmp_path / "new" / "k.json")
    finally:
        os.umask(old)
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(tmp_path / "new").st_mode) == 0o700


def test_a_reader_never_sees_half_a_file(tmp_path):
    path = tmp_path / "k.json"
    write_private_file(path, json.dumps(["x" * 100_000]))
    done = threading.Event()

    def write():
        for n in range(300):
            write_private_file(path, json.dumps([str(n) * 100_000]))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    while not done.is_set():
        assert len(json.loads(path.read_text())) == 1
    writer.join()
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path, full_disk):
    old = full_disk / "k.json"
    with pytest.raises(ConnectionFileWriteError, match="No space left on device") as info:
        write_connection_file(old, key=b"secret", padding="x" * 100_000)
    assert "JUPYTER_RUNTIME_DIR" in info.value.hint
    assert "secret" not in str(info.value)
    assert not list(full_disk.glob("*k.json*"))


def test_a_read_only_directory_is_named(read_only_dir):
    with pytest.raises(ConnectionFileWriteError, match="Read-only file system"):
        write_connection_file(read_only_dir / "k.json")


def test_a_file_is_found_by_name_pattern_and_part(tmp_path):
    path, _ = write_connection_file(tmp_path / "kernel-abc.json")
    for name in ("kernel-abc.json", "kernel-*.json", "abc", str(path)):
        assert find_connection_file(name, path=str(tmp_path)) == path


def test_the_last_read_of_several_matches_is_found(tmp_path):
    for number, name in enumerate(["kernel-a.json", "kernel-b.json", "kernel-c.json"]):
        path, _ = write_connection_file(tmp_path / name)
        os.utime(path, (1000 + (number == 1), 1000))
    assert find_connection_file(path=[str(tmp_path)]).endswith("kernel-b.json")


def test_a_file_in_the_runtime_directory_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    path, _ = write_connection_file(tmp_path / "kernel-abc.json")
    assert find_connection_file("abc", profile="default") == path


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConnectionFileNotFoundError, match=r"'nope' in .*" + tmp_path.name):
        find_connection_file("nope", path=str(tmp_path))
    with pytest.raises(FileNotFoundError):
        read_connection_file(tmp_path / "nope.json")


def test_a_truncated_file_is_refused(tmp_path):
    path, _ = write_connection_file(tmp_path / "k.json")
    text = (tmp_path / "k.json").read_text()
    write_private_file(path, text[: len(text) // 2])
    with pytest.raises(ConnectionFileInvalidError, match="truncated or no JSON"):
        read_connection_file(path)


@pytest.mark.parametrize(
    ("entry", "value", "said"),
    [
        ("shell_port", "4711", "'shell_port' has to be a port number and is of type str"),
        ("hb_port", 70000, "'hb_port' has to be a port number and is 70000"),
        ("hb_port", True, "'hb_port' has to be a port number and is of type bool"),
        ("key", 12345, "'key' has to be text and is"),
        ("ip", None, "'ip' has to be text and is missing"),
        ("curve_secretkey", ["a"], "'curve_secretkey' has to be text and is of type list"),
    ],
)
def test_a_wrong_type_is_named(tmp_path, entry, value, said):
    path, info = write_connection_file(tmp_path / "k.json")
    write_private_file(path, json.dumps({**info, entry: value}))
    with pytest.raises(ConnectionFileInvalidError, match=said):
        read_connection_file(path)


def test_a_file_that_is_no_object_is_refused(tmp_path):
    write_private_file(tmp_path / "k.json", "[]")
    with pytest.raises(ConnectionFileInvalidError, match="no JSON object"):
        read_connection_file(tmp_path / "k.json")


def test_binary_rubbish_is_refused(tmp_path):
    (tmp_path / "k.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConnectionFileInvalidError, match="cannot be read"):
        read_connection_file(tmp_path / "k.json")


def test_a_file_that_others_can_read_is_refused(tmp_path):
    path, _ = write_connection_file(tmp_path / "k.json", key=b"secret")
    os.chmod(path, 0o644)
    with pytest.raises(
        ConnectionFileInvalidError, match=r"read by other users \(mode 0644\)"
    ) as info:
        read_connection_file(path)
    assert "secret" not in str(info.value)


def test_the_runtime_directory_is_jupyter_cores(monkeypatch, tmp_path):
    from jupyter_core import paths

    for name in ("JUPYTER_RUNTIME_DIR", "JUPYTER_DATA_DIR", "JUPYTER_PLATFORM_DIRS"):
        monkeypatch.delenv(name, raising=False)
    assert jupyter_runtime_dir() == paths.jupyter_runtime_dir()
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))
    assert jupyter_runtime_dir() == paths.jupyter_runtime_dir()


def test_the_runtime_directory_is_the_same_without_jupyter_core(monkeypatch, tmp_path):
    import sys

    from jupyter_core import paths

    monkeypatch.delenv("JUPYTER_RUNTIME_DIR", raising=False)
    monkeypatch.delenv("JUPYTER_DATA_DIR", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    expected = paths.jupyter_runtime_dir()
    monkeypatch.setitem(sys.modules, "jupyter_core", None)
    assert jupyter_runtime_dir() == expected
