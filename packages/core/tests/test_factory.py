"""From kernelspec to provisioner; distributions are really installed (as metadata on sys.path)."""

import logging
import sys

import pytest
from jupyter_client.kernelspec import KernelSpec

from kernel_provisioner_core import (
    ConfigurationError,
    KernelProvisionerFactory,
    ProvisionerConflictError,
    ProvisionerNotFoundError,
)
from kernel_provisioner_core.factory import load_provisioner_class


@pytest.fixture
def site(tmp_path, monkeypatch):
    """Put a directory on sys.path; return a function that installs a distribution into it."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(distribution, name, value):
        folder = tmp_path / f"{distribution.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n"
        )
        (folder / "entry_points.txt").write_text(
            f"[jupyter_client.kernel_provisioners]\n{name} = {value}\n"
        )
        (tmp_path / f"{value.partition(':')[0]}.py").write_text(
            "class Provisioner:\n    def __init__(self, **kwargs):\n        self.kwargs = kwargs\n"
        )
        # a distribution is found by a directory's time stamp, which may be coarse
        __import__("importlib").invalidate_caches()

    yield install
    for module in ("one_module", "other_module", "broken_module"):
        sys.modules.pop(module, None)


@pytest.fixture
def factory():
    return KernelProvisionerFactory(log=logging.getLogger("test"))


def spec(stanza=None):
    return KernelSpec(
        display_name="K", metadata={} if stanza is None else {"kernel_provisioner": stanza}
    )


def test_a_provisioner_gets_id_spec_parent_and_config(site, factory):
    site("one", "one", "one_module:Provisioner")
    kernel_spec = spec({"provisioner_name": "one", "config": {"image": "a"}})
    made = factory.create_provisioner_instance("k-1", kernel_spec, None)
    assert made.kwargs == {
        "kernel_id": "k-1",
        "kernel_spec": kernel_spec,
        "parent": None,
        "image": "a",
    }


def test_the_kernelspec_is_not_changed(site, factory):
    site("one", "one", "one_module:Provisioner")
    kernel_spec = spec({"provisioner_name": "one"})
    factory.create_provisioner_instance("k-1", kernel_spec, None)
    assert kernel_spec.metadata == {"kernel_provisioner": {"provisioner_name": "one"}}


def test_a_provisioner_that_is_installed_later_is_found(site, factory):
    kernel_spec = spec({"provisioner_name": "one"})
    assert not factory.is_provisioner_available(kernel_spec)
    site("one", "one", "one_module:Provisioner")
    assert factory.is_provisioner_available(kernel_spec)
    assert factory.get_provisioner_entries()["one"] == "one_module:Provisioner"


def test_what_is_missing_is_named_with_what_to_install(factory, caplog):
    kernel_spec = spec({"provisioner_name": "kernel-provisioner-slurm"})
    with pytest.raises(
        ProvisionerNotFoundError, match="'kernel-provisioner-slurm' is not installed"
    ) as info:
        factory.create_provisioner_instance("k-1", kernel_spec, None)
    assert "pip install kernel-provisioner-slurm" in info.value.hint
    assert isinstance(info.value, ModuleNotFoundError)  # what callers of jupyter_client catch
    assert not factory.is_provisioner_available(kernel_spec)
    assert "pip install kernel-provisioner-slurm" in caplog.text


def test_no_package_is_guessed_for_another_projects_provisioner(factory):
    with pytest.raises(ProvisionerNotFoundError) as info:
        factory.create_provisioner_instance("k-1", spec({"provisioner_name": "yarn"}), None)
    assert "Install the package that provides it" in info.value.hint


def test_two_distributions_that_claim_one_name_are_named(site, factory):
    site("one", "clash", "one_module:Provisioner")
    site("other", "clash", "other_module:Provisioner")
    with pytest.raises(ProvisionerConflictError) as info:
        factory.create_provisioner_instance("k-1", spec({"provisioner_name": "clash"}), None)
    assert "one 1.0 (one_module:Provisioner)" in str(info.value)
    assert "other 1.0 (other_module:Provisioner)" in str(info.value)
    assert sorted(factory.distributions_of("clash")) == ["one 1.0", "other 1.0"]


def test_a_provisioner_that_cannot_be_imported_is_named(site, factory, tmp_path):
    site("broken", "broken", "broken_module:Provisioner")
    (tmp_path / "broken_module.py").write_text("import no_such_module\n")
    with pytest.raises(
        ProvisionerNotFoundError, match=r"of broken 1\.0 cannot be loaded: No module named"
    ):
        factory.create_provisioner_instance("k-1", spec({"provisioner_name": "broken"}), None)


def test_the_default_is_the_local_provisioner(factory, monkeypatch):
    monkeypatch.delenv("JUPYTER_DEFAULT_PROVISIONER_NAME", raising=False)
    assert factory.default_provisioner_name == "kernel-provisioner-local"


def test_the_environment_names_another_default(site, factory, monkeypatch):
    site("one", "one", "one_module:Provisioner")
    monkeypatch.setenv("JUPYTER_DEFAULT_PROVISIONER_NAME", "one")
    assert type(factory.create_provisioner_instance("k-1", spec(), None)).__module__ == "one_module"


@pytest.mark.parametrize(
    ("stanza", "where"),
    [
        ("docker", "kernel_provisioner is not an object"),
        ({"provisioner_name": 3}, "provisioner_name is not text"),
        ({"provisioner_name": "one", "config": ["image"]}, "config is not an object"),
    ],
)
def test_a_malformed_stanza_is_named(factory, stanza, where):
    with pytest.raises(ConfigurationError, match=where):
        factory.create_provisioner_instance("k-1", spec(stanza), None)


def test_a_class_is_loaded_by_name_or_by_module_and_class(site):
    site("one", "one", "one_module:Provisioner")
    assert load_provisioner_class("one_module:Provisioner") is load_provisioner_class("one")


@pytest.mark.parametrize("name", ["no_such_module:Class", "json:NoSuchClass"])
def test_a_missing_module_or_class_is_named(name):
    with pytest.raises(ProvisionerNotFoundError, match=name):
        load_provisioner_class(name)
