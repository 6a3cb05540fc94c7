"""The names in kernel.json: each is the name to install, each loads, none is somebody else's."""

from importlib.metadata import EntryPoint

from kernel_provisioner_core import KernelProvisionerBase, KernelProvisionerFactory

GROUP = "jupyter_client.kernel_provisioners"

# Found in other projects' own files. Of two distributions with one name jupyter_client takes the last, silently.
TAKEN = {
    "distributed-provisioner",
    "docker-provisioner",
    "docker-swarm-provisioner",
    "firecracker-provisioner",
    "k8s-provisioner",
    "kubernetes-provisioner",
    "local-provisioner",
    "pixi-kernel-provisioner",
    "pyproject-local-kernel-provisioner",
    "pyxll-provisioner",
    "rbac-provisioner",
    "remote-slurm-provisioner",
    "slurm-provisioner",
    "spark-operator-provisioner",
    "sshpyk-provisioner",
    "swan-provisioner",
    "yarn-provisioner",
}


def test_a_backends_one_entry_point_is_its_distributions_name(backend):
    assert list(backend.project["entry-points"][GROUP]) == [backend.distribution]


def test_core_has_no_entry_point_of_its_own(packages):
    assert GROUP not in packages[0].project.get("entry-points", {})


def test_no_name_is_taken(packages):
    assert not TAKEN & {package.distribution for package in packages}


def test_a_backends_entry_point_loads_a_provisioner(backend):
    value = backend.project["entry-points"][GROUP][backend.distribution]
    assert value.startswith(f"{backend.module}:")
    assert issubclass(EntryPoint(backend.distribution, value, GROUP).load(), KernelProvisionerBase)


def test_the_installed_local_provisioner_is_found_by_its_name():
    factory = KernelProvisionerFactory.instance()
    assert "kernel-provisioner-local" in factory.get_provisioner_entries()


def test_the_command_is_a_script_of_core(packages):
    assert list(packages[0].project["scripts"]) == ["jupyter-provisioner"]
