"""A Jupyter of its own for each test, and installed provisioners to try."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from jupyter_client.provisioning.factory import KernelProvisionerFactory as JupyterFactory

from kernel_provisioner_core.cli import main
from kernel_provisioner_core.factory import KernelProvisionerFactory

TINY = Path(__file__).with_name("tiny")

IPYKERNEL = ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]


class Finished:
    """What a command has done."""

    def __init__(self, status, out, err):
        self.status, self.out, self.err = status, out, err

    @property
    def rows(self):
        """The cells of a table, without its head."""
        return [line.split("\t") for line in self.out.splitlines()[1:]]

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture(autouse=True)
def jupyter(tmp_path, monkeypatch):
    """Jupyter's directories below tmp_path; the data directory is returned."""
    for name in ("CONFIG", "DATA", "RUNTIME"):
        monkeypatch.setenv(f"JUPYTER_{name}_DIR", str(tmp_path / "jupyter" / name.lower()))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    for name in ("JUPYTER_PATH", "JUPYTER_PREFER_ENV_PATH", "JUPYTER_DEFAULT_PROVISIONER_NAME"):
        monkeypatch.delenv(name, raising=False)
    # both remember what was installed when they were made
    for factory in (JupyterFactory, KernelProvisionerFactory):
        factory.clear_instance()
    yield tmp_path / "jupyter" / "data"
    for factory in (JupyterFactory, KernelProvisionerFactory):
        factory.clear_instance()


@pytest.fixture
def install_distribution(tmp_path, monkeypatch):
    """Install a distribution: `install(name, version, {entry point: "module:Class"}, module=source)`."""
    site = tmp_path / "site"

    def install(name, version, entry_points, **modules):
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = [f"{key} = {value}" for key, value in entry_points.items()]
        (info / "entry_points.txt").write_text(
            "\n".join(["[jupyter_client.kernel_provisioners]", *lines, ""])
        )
        for module, source in modules.items():
            (site / f"{module}.py").write_text(source)
        _put_on_path(monkeypatch, site)

    return install


@pytest.fixture
def tiny(install_distribution, monkeypatch):
    """The tiny provisioner and its faulty brothers, installed; the name of the good one is returned."""
    _put_on_path(monkeypatch, TINY)
    install_distribution(
        "kernel-provisioner-tiny",
        "0.3",
        {
            "kernel-provisioner-tiny": "kernel_provisioner_tiny:TinyProvisioner",
            "tiny-deaf": "kernel_provisioner_tiny:DeafProvisioner",
            "tiny-forgetful": "kernel_provisioner_tiny:ForgetfulProvisioner",
            "tiny-strange": "kernel_provisioner_tiny:StrangeProvisioner",
        },
    )
    return "kernel-provisioner-tiny"


@pytest.fixture
def run(capfd):
    """Run a command in this process: `run("list", "--json")`."""

    def run(*argv):
        capfd.readouterr()
        status = main(argv)
        return Finished(status, *capfd.readouterr())

    return run


@pytest.fixture
def kernelspec(jupyter):
    """Write a kernel.json by hand: `kernelspec("mine", argv=[...])`; the file is returned."""

    def write(name, text=None, **entries):
        folder = jupyter / "kernels" / name
        folder.mkdir(parents=True)
        path = folder / "kernel.json"
        if text is None:
            text = json.dumps({"argv": IPYKERNEL, "language": "python", **entries})
        path.write_text(text)
        return path

    return write


@pytest.fixture
def provisioned(kernelspec):
    """Write a kernelspec for a provisioner: `provisioned("mine", "kernel-provisioner-tiny", image="...")`."""

    def write(name, provisioner, argv=None, **config):
        stanza = {"provisioner_name": provisioner, "config": config}
        return kernelspec(name, argv=argv or IPYKERNEL, metadata={"kernel_provisioner": stanza})

    return write


@pytest.fixture
def script():
    """The arguments that start the command line in a process of its own."""
    return [
        sys.executable,
        "-c",
        "from kernel_provisioner_core.cli import main; raise SystemExit(main())",
    ]


@pytest.fixture
def run_script(script):
    """Run a command in a process of its own: `run_script("run", "python3", "-c", "...")`."""

    def run(*argv, **kwargs):
        done = subprocess.run(
            [*script, *argv], capture_output=True, text=True, timeout=60, check=False, **kwargs
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    return run


def _put_on_path(monkeypatch, folder):
    if str(folder) not in sys.path:
        monkeypatch.syspath_prepend(str(folder))
        before = os.environ.get("PYTHONPATH")
        monkeypatch.setenv("PYTHONPATH", str(folder) + (os.pathsep + before if before else ""))
