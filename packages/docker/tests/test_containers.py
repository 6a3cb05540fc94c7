"""The builders, compared as whole values; nothing here needs an engine."""

import io
import tarfile

import pytest

from kernel_provisioner_core import ConfigurationError
from kernel_provisioner_core.remote import LaunchRequest
from kernel_provisioner_docker.containers import (
    CONNECTION_FILE,
    CONTAINER_PORTS,
    ContainerOptions,
    Mount,
    connection_archive,
    container_body,
    container_name,
    memory_bytes,
    owner_of,
    parse_mounts,
    path_on_host,
)

REQUEST = LaunchRequest(
    kernel_id="k-1",
    argv=("python3", "-m", "ipykernel_launcher", "-f", CONNECTION_FILE),
    env={"B": "2", "A": "1"},
    cwd="/home/me",
    connection_file=CONNECTION_FILE,
    connection={"key": "secret"},
    labels={"kernel-provisioner.kernel-id": "k-1"},
)
PUBLISHED = dict(zip(CONTAINER_PORTS, range(40001, 40006), strict=True))
PASSWD = "root:x:0:0:root:/root:/bin/sh\njovyan:x:1000:100::/home/jovyan:/bin/sh\n"
GROUP = "root:x:0:\nusers:x:100:\nstaff:x:50:jovyan\n"


def body(**options):
    return container_body(REQUEST, ContainerOptions("img", **options), PUBLISHED, "127.0.0.1")


def test_a_plain_container():
    assert body() == {
        "Image": "img",
        "Entrypoint": [""],
        "Cmd": [
            "python3",
            "-m",
            "ipykernel_launcher",
            "-f",
            "/.kernel-provisioner/connection.json",
        ],
        "Env": ["A=1", "B=2", "TINI_KILL_PROCESS_GROUP=1"],
        "User": "",
        "WorkingDir": "",
        "Labels": {
            "kernel-provisioner.kernel-id": "k-1",
            "kernel-provisioner.backend": "docker",
        },
        "ExposedPorts": {f"{port}/tcp": {} for port in range(53170, 53175)},
        "HostConfig": {
            "Init": True,
            "CapDrop": [],
            "SecurityOpt": [],
            "ReadonlyRootfs": False,
            "ExtraHosts": [],
            "Mounts": [],
            "RestartPolicy": {"Name": "no"},
            "PortBindings": {
                f"{53170 + n}/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(40001 + n)}]
                for n in range(5)
            },
        },
    }


def test_a_container_with_every_option():
    built = body(
        user="1000:100",
        working_dir="/project",
        mounts=(Mount("bind", "/data", "/srv/data", True), Mount("tmpfs", "/scratch", size=1024)),
        resources={"cpu": 1.5, "memory": "2g", "gpu": 2},
        network="net",
        labels={"team": "physics", "kernel-provisioner.kernel-id": "forged"},
        init=False,
        cap_drop=("ALL",),
        read_only=True,
        security_opt=("no-new-privileges",),
        extra_hosts={"db": "10.0.0.5"},
    )
    assert built["User"] == "1000:100"
    assert built["WorkingDir"] == "/project"
    assert built["Env"] == ["A=1", "B=2"]
    assert built["Labels"] == {
        "team": "physics",
        "kernel-provisioner.kernel-id": "k-1",
        "kernel-provisioner.backend": "docker",
    }
    assert built["Volumes"] == {"/.kernel-provisioner": {}}
    del built["HostConfig"]["PortBindings"]
    assert built["HostConfig"] == {
        "Init": False,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges"],
        "ReadonlyRootfs": True,
        "ExtraHosts": ["db:10.0.0.5"],
        "Mounts": [
            {"Type": "bind", "Source": "/srv/data", "Target": "/data", "ReadOnly": True},
            {
                "Type": "tmpfs",
                "Target": "/scratch",
                "ReadOnly": False,
                "TmpfsOptions": {"SizeBytes": 1024},
            },
        ],
        "RestartPolicy": {"Name": "no"},
        "NetworkMode": "net",
        "NanoCpus": 1_500_000_000,
        "Memory": 2 << 30,
        "DeviceRequests": [{"Count": 2, "Capabilities": [["gpu"]]}],
    }


@pytest.mark.parametrize(
    ("gpu", "request_"),
    [
        ("all", {"Count": -1, "Capabilities": [["gpu"]]}),
        (["0", "GPU-abc"], {"DeviceIDs": ["0", "GPU-abc"], "Capabilities": [["gpu"]]}),
    ],
)
def test_gpus_are_device_requests(gpu, request_):
    assert body(resources={"gpu": gpu})["HostConfig"]["DeviceRequests"] == [request_]


def test_without_published_ports_there_are_no_bindings():
    built = container_body(REQUEST, ContainerOptions("img"), None, "")
    assert "PortBindings" not in built["HostConfig"]


def test_extra_create_is_merged_deeply():
    built = body(extra_create={"HostConfig": {"ShmSize": 1}, "Hostname": "h", "Cmd": ["x"]})
    assert built["HostConfig"]["ShmSize"] == 1
    assert built["HostConfig"]["Init"] is True
    assert (built["Hostname"], built["Cmd"]) == ("h", ["x"])


def test_no_secret_is_in_the_body():
    assert "secret" not in str(body())
    assert "secret" not in repr(REQUEST)


@pytest.mark.parametrize(
    "target", ["/", "/.kernel-provisioner", "/.kernel-provisioner/connection.json"]
)
def test_a_mount_that_would_hide_the_connection_file_is_refused(target):
    with pytest.raises(ConfigurationError, match="would hide the connection file"):
        body(mounts=(Mount("tmpfs", target),))
    with pytest.raises(ConfigurationError, match="would hide the connection file"):
        body(extra_create={"HostConfig": {"Tmpfs": {target: ""}}})
    with pytest.raises(ConfigurationError, match="would hide the connection file"):
        body(extra_create={"HostConfig": {"Binds": [f"/srv:{target}"]}})


@pytest.mark.parametrize(
    "resources", [{"cpus": 1}, {"cpu": "many"}, {"memory": "2 apples"}, {"gpu": 0}, {"gpu": True}]
)
def test_malformed_resources_are_refused(resources):
    with pytest.raises(ConfigurationError, match="resources"):
        body(resources=resources)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        (1024, 1024),
        ("1024", 1024),
        ("512m", 512 << 20),
        ("2g", 2 << 30),
        ("2Gi", 2 << 30),
        ("1.5k", 1536),
    ],
)
def test_amounts_of_memory(text, number):
    assert memory_bytes(text) == number


# -- the connection file


def test_the_archive_holds_a_private_directory_and_a_private_file():
    with tarfile.open(
        fileobj=io.BytesIO(connection_archive("text", 1000, 100, directory="dir"))
    ) as archive:
        folder, file = archive.getmembers()
        assert (folder.name, oct(folder.mode), folder.uid, folder.gid) == (
            "dir",
            "0o700",
            1000,
            100,
        )
        assert (file.name, oct(file.mode), file.uid, file.gid) == (
            "dir/connection.json",
            "0o600",
            1000,
            100,
        )
        assert archive.extractfile(file).read() == b"text"


@pytest.mark.parametrize(
    ("user", "owner"),
    [
        ("", (0, 0)),
        ("root", (0, 0)),
        ("jovyan", (1000, 100)),
        ("1000", (1000, 100)),
        ("4711", (4711, 0)),
        ("4711:42", (4711, 42)),
        ("jovyan:staff", (1000, 50)),
        ("jovyan:7", (1000, 7)),
    ],
)
def test_the_owner_is_resolved_as_the_engine_does(user, owner):
    assert owner_of(user, PASSWD, GROUP) == owner


@pytest.mark.parametrize("user", ["nobody-here", "jovyan:nogroup"])
def test_an_unknown_user_or_group_is_named(user):
    with pytest.raises(ConfigurationError, match="The image has no"):
        owner_of(user, PASSWD, GROUP)


@pytest.mark.parametrize("kernel_id", ["plain", "Größe 日本; $(rm)", "x" * 200, ""])
def test_a_containers_name_is_within_the_engines_alphabet(kernel_id):
    import re

    assert re.fullmatch(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{0,100}", container_name(kernel_id))


# -- mounts


def test_mounts_in_all_their_forms(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert parse_mounts(
        [
            "cwd",
            "~/data:/data:ro",
            "{cwd}/in:/in",
            "cache:/cache",
            {"type": "tmpfs", "target": "/t", "size": "1m"},
            {"source": "/srv", "target": "/s", "read_only": True},
        ],
        "/nb",
    ) == (
        Mount("bind", "/nb", "/nb"),
        Mount("bind", "/data", "/home/me/data", True),
        Mount("bind", "/in", "/nb/in"),
        Mount("volume", "/cache", "cache"),
        Mount("tmpfs", "/t", size=1 << 20),
        Mount("bind", "/s", "/srv", True),
    )


@pytest.mark.parametrize(
    "mount",
    [
        "/only-source",
        "a:b",
        "a:/b:rx",
        3,
        {"type": "nfs", "target": "/x"},
        {"target": "/x", "sorce": "/y"},
    ],
)
def test_a_malformed_mount_is_quoted(mount):
    with pytest.raises(ConfigurationError, match="is malformed"):
        parse_mounts([mount], "/nb")


def test_a_mount_of_the_notebooks_directory_needs_one():
    with pytest.raises(ConfigurationError, match="needs the notebook's directory"):
        parse_mounts(["cwd"], "")


# -- paths


@pytest.fixture
def mounts(tmp_path):
    (tmp_path / "src" / "deep").mkdir(parents=True)
    (tmp_path / "src" / "a.py").touch()
    (tmp_path / "src" / "out").symlink_to("/etc")
    return (
        Mount("bind", "/project", str(tmp_path / "src")),
        Mount("tmpfs", "/project/tmp"),
        Mount("volume", "/vol", "v"),
    )


@pytest.mark.parametrize(
    ("path", "working_dir", "found"),
    [
        ("/project/a.py", "", "src/a.py"),
        ("a.py", "/project", "src/a.py"),
        ("../a.py", "/project/deep", "src/a.py"),
        ("/project", "", "src"),
        ("a.py", "", None),
        ("/project/missing.py", "", None),
        ("/project/../etc/passwd", "", None),
        ("/project/out/passwd", "", None),
        ("/project/tmp/x", "", None),
        ("/vol/x", "", None),
        ("/projects/a.py", "", None),
        ("/etc/passwd", "", None),
    ],
)
def test_paths_are_resolved_through_bind_mounts_only(mounts, tmp_path, path, working_dir, found):
    expected = None if found is None else str(tmp_path / found)
    assert path_on_host(path, mounts, working_dir) == expected
