"""`jupyter provisioner` with kernels in containers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from kernel_containers import ENGINE, IMAGE

from kernel_provisioner_core.records import read_records

pytestmark = pytest.mark.needs("docker")


def provisioner(*arguments):
    """Run a command and return what it printed, as JSON."""
    command = [str(Path(sys.executable).with_name("jupyter-provisioner")), *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


async def test_one_line_makes_a_kernelspec_out_of_an_image(tmp_path):
    made = provisioner(
        "install",
        "kernel-provisioner-docker",
        *("--name", "mine", "--prefix", str(tmp_path)),
        *("--set", f"image={IMAGE}:nonroot", "--set", f"docker_host={ENGINE}"),
        *("--set", "pull_policy=never"),
    )
    kernel_json = made["kernel_json"]
    assert kernel_json["argv"][1:] == ["-m", "ipykernel_launcher", "-f", "{connection_file}"]
    assert kernel_json["language"] == "python"
    stanza = kernel_json["metadata"]["kernel_provisioner"]
    assert stanza["provisioner_name"] == "kernel-provisioner-docker"
    assert stanza["config"]["image"] == f"{IMAGE}:nonroot"
    assert (Path(made["path"]) / "logo-64x64.png").exists()


async def test_a_kernel_is_listed_its_logs_are_shown_and_it_is_stopped(make, answer):
    manager = make()
    await manager.start_kernel()
    kernel_id = manager.provisioner.kernel_id
    await answer(manager, "import os; os.write(1, b'to the container\\n')")
    (listed,) = provisioner("ps")
    assert (listed["kernel_id"], listed["state"]) == (kernel_id, "running")
    assert "to the container" in provisioner("logs", kernel_id)["lines"]
    provisioner("stop", kernel_id, "--now", "--force")
    assert await manager.provisioner.wait() is not None
    assert not read_records()
    await manager.shutdown_kernel(now=True)


def test_what_a_killed_server_left_is_reaped(runtime_dir, engine):
    code = f"""
import asyncio, os, uuid
from jupyter_client.kernelspec import KernelSpec
from kernel_provisioner_docker import DockerProvisioner
async def launch():
    spec = KernelSpec(argv=["python3", "-m", "ipykernel_launcher", "-f", "{{connection_file}}"], language="python")
    p = DockerProvisioner(kernel_id=str(uuid.uuid4()), kernel_spec=spec, image="{IMAGE}:test", docker_host="{ENGINE}")
    await p.launch_kernel(**await p.pre_launch())
    await p.post_launch()
    print(p.kernel_id, flush=True)
    os.kill(os.getpid(), 9)
asyncio.run(launch())
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ},
    )
    kernel_id = done.stdout.strip()
    assert kernel_id, done.stderr
    label = {"label": [f"kernel-provisioner.kernel-id={kernel_id}"]}
    assert engine.containers(filters=label)
    (reaped,) = provisioner("reap")
    assert reaped["kernel_id"] == kernel_id
    assert not engine.containers(all=True, filters=label)
    assert not read_records()
