import json
import os
import stat
import sys

import pytest
from ipykernel.kernelspec import get_kernel_dict


def read(path):
    return json.loads((path / "kernel.json").read_text())


def test_install_writes_the_kernel_json_of_the_provisioner(run, tiny, jupyter):
    done = run(
        "install", tiny, "--name", "Mine", "--display-name", "My kernel", "--user",
        "--set", "image=quay.io/x", "--set", "resources.cpu=2", "--env", "A=1",
        "--interrupt-mode", "message",
    )  # fmt: skip
    place = jupyter / "kernels" / "mine"
    assert done.status == 0
    assert str(place) in done.out
    assert "jupyter provisioner check mine" in done.out
    assert done.err == ""
    assert read(place) == {
        "argv": ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "My kernel",
        "language": "python",
        "interrupt_mode": "message",
        "env": {"A": "1"},
        "kernel_protocol_version": read(place)["kernel_protocol_version"],
        "metadata": {
            **get_kernel_dict()["metadata"],
            "kernel_provisioner": {
                "provisioner_name": tiny,
                "config": {"image": "quay.io/x", "resources": {"cpu": 2}},
            },
        },
    }


def test_a_python_kernel_gets_the_logos(run, tiny, jupyter):
    run("install", tiny, "--name", "mine", "--user")
    logos = sorted(path.name for path in (jupyter / "kernels" / "mine").glob("logo-*"))
    assert "logo-64x64.png" in logos


def test_jupyter_lists_what_was_installed(run, tiny):
    from jupyter_client.kernelspec import KernelSpecManager

    run("install", tiny, "--name", "mine", "--user")
    assert KernelSpecManager().get_kernel_spec("mine").display_name == "mine"


def test_the_command_of_another_kernel_stands_behind_two_dashes(run, tiny, jupyter):
    done = run(
        "install", tiny, "--name", "ir", "--language", "R", "--user",
        "--", "R", "--slave", "--args", "{connection_file}",
    )  # fmt: skip
    assert done.status == 0
    written = read(jupyter / "kernels" / "ir")
    assert written["argv"] == ["R", "--slave", "--args", "{connection_file}"]
    assert written["language"] == "R"
    assert written["metadata"].keys() == {"kernel_provisioner"}
    assert not list((jupyter / "kernels" / "ir").glob("logo-*"))


def test_a_command_without_the_connection_file_is_warned_of(run, tiny):
    done = run("install", tiny, "--name", "mine", "--user", "--", "R")
    assert done.status == 0
    assert "warning: the command does not mention {connection_file}" in done.err


def test_prefix_and_sys_prefix_are_those_of_jupyter(run, tiny, tmp_path, monkeypatch):
    done = run("install", tiny, "--name", "mine", "--prefix", str(tmp_path / "there"), "--json")
    place = tmp_path / "there" / "share" / "jupyter" / "kernels" / "mine"
    assert done.json["path"] == str(place)
    assert read(place) == done.json["kernel_json"]
    assert "warning: Jupyter does not look for kernelspecs in" in done.err
    monkeypatch.setattr(sys, "prefix", str(tmp_path / "env"))
    done = run("install", tiny, "--name", "mine", "--sys-prefix", "--json")
    assert done.json["path"].startswith(str(tmp_path / "env"))


def test_nothing_is_overwritten_without_replace(run, tiny, jupyter):
    run("install", tiny, "--name", "mine", "--user", "--set", "image=first")
    done = run("install", tiny, "--name", "mine", "--user", "--set", "image=second")
    assert done.status == 1
    assert "--replace" in done.err
    place = jupyter / "kernels" / "mine"
    assert read(place)["metadata"]["kernel_provisioner"]["config"] == {"image": "first"}

    (place / "left-over.txt").write_text("")
    done = run("install", tiny, "--name", "mine", "--user", "--set", "image=second", "--replace")
    assert done.status == 0
    assert read(place)["metadata"]["kernel_provisioner"]["config"] == {"image": "second"}
    assert not (place / "left-over.txt").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--set", "imgae=x"], "Did you mean 'image'?"),
        (["--set", "launch_timeout=soon"], "launch_timeout"),
        (["--set", "pull_policy=often"], "pull_policy"),
        (["--set", "resources.cpu=many"], "resources"),
    ],
)
def test_options_that_the_provisioner_refuses_are_not_written(run, tiny, jupyter, arguments, said):
    done = run("install", tiny, "--name", "mine", "--user", *arguments)
    assert done.status == 1
    assert said in done.err
    assert len(done.err.splitlines()) == 2
    assert not (jupyter / "kernels" / "mine").exists()


def test_options_of_a_provisioner_that_is_not_ours_are_checked_too(run, jupyter):
    done = run("install", "local-provisioner", "--name", "mine", "--user", "--set", "image=x")
    assert done.status == 1
    assert "LocalProvisioner has no option 'image'" in done.err
    assert not (jupyter / "kernels" / "mine").exists()


@pytest.mark.parametrize(
    ("provisioner", "said"),
    [
        ("kernel-provisioner-nowhere", "pip install kernel-provisioner-nowhere"),
        ("kernel_provisioner_tiny:TinyProvisioner", "entry point"),
    ],
)
def test_a_provisioner_that_kernel_json_cannot_name_is_refused(run, provisioner, said):
    done = run("install", provisioner, "--name", "mine", "--user")
    assert done.status == 1
    assert said in done.err


def test_a_name_that_jupyter_does_not_allow_is_refused(run, tiny, jupyter):
    done = run("install", tiny, "--name", "my kernel", "--user")
    assert done.status == 1
    assert "Invalid kernel name" in done.err
    assert os.listdir(jupyter / "kernels") == []
    assert os.listdir(jupyter) == ["kernels"]


def test_a_place_that_cannot_be_written_is_told_and_left_as_it_was(run, tiny, tmp_path):
    (tmp_path / "file").write_text("not a directory")
    done = run("install", tiny, "--name", "mine", "--prefix", str(tmp_path / "file"))
    assert done.status == 1
    assert "cannot be written" in done.err
    assert "hint: " in done.err
    assert (tmp_path / "file").read_text() == "not a directory"


def test_a_full_disk_leaves_what_was_there(run, tiny, jupyter, monkeypatch):
    run("install", tiny, "--name", "mine", "--user", "--set", "image=first")
    before = sorted(os.listdir(jupyter)), sorted(os.listdir(jupyter / "kernels" / "mine"))

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfile", full)
    done = run("install", tiny, "--name", "mine", "--user", "--replace")
    assert done.status == 1
    assert "No space left on device" in done.err
    assert "Free space" in done.err
    assert before == (sorted(os.listdir(jupyter)), sorted(os.listdir(jupyter / "kernels" / "mine")))
    assert (
        read(jupyter / "kernels" / "mine")["metadata"]["kernel_provisioner"]["config"]["image"]
        == "first"
    )


def test_a_replacement_that_fails_at_the_last_step_puts_the_old_one_back(
    run, tiny, jupyter, monkeypatch
):
    run("install", tiny, "--name", "mine", "--user", "--set", "image=first")

    def fail(*args):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.rename", fail)
    done = run("install", tiny, "--name", "mine", "--user", "--replace")
    assert done.status == 1
    assert (
        read(jupyter / "kernels" / "mine")["metadata"]["kernel_provisioner"]["config"]["image"]
        == "first"
    )


def test_what_is_installed_can_be_read_by_whom_the_umask_lets(run, tiny, jupyter):
    before = os.umask(0o022)
    try:
        run("install", tiny, "--name", "mine", "--user")
    finally:
        os.umask(before)
    place = jupyter / "kernels" / "mine"
    assert stat.S_IMODE(place.stat().st_mode) == 0o755
    assert stat.S_IMODE((place / "kernel.json").stat().st_mode) == 0o644


def test_a_kernelspec_that_is_found_first_elsewhere_is_warned_of(run, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "first"))
    first = tmp_path / "first" / "kernels" / "mine"
    first.mkdir(parents=True)
    (first / "kernel.json").write_text("{}")
    done = run("install", tiny, "--name", "mine", "--user")
    assert f"finds another kernelspec of this name first: {first}" in done.err


def test_without_ipykernel_a_command_has_to_be_given(run, tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipykernel.kernelspec", None)
    done = run("install", tiny, "--name", "mine", "--user")
    assert done.status == 1
    assert "ipykernel is not installed" in done.err
    assert "-- python -m ipykernel_launcher" in done.err
    python = ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    assert run("install", tiny, "--name", "mine", "--user", "--", *python).status == 0
