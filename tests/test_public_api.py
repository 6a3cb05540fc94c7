"""The public names: complete, sorted and documented."""

import importlib
import inspect
import types

import pytest

import wheels

MODULES = [
    "kernel_provisioner_core.conformance",
    *(f"kernel_provisioner_{name}" for name in wheels.names()),
]
PROMISED = {
    "KernelConnectionInfo",
    "KernelProvisionerBase",
    "KernelProvisionerFactory",
    "find_connection_file",
    "launch_kernel",
    "write_connection_file",
}


@pytest.fixture(params=MODULES)
def module(request):
    return importlib.import_module(request.param)


def order(name):
    """Sort constants, then classes, then functions, as ruff does."""
    return (not name.isupper(), not name[0].isupper(), name)


def members(cls):
    """Yield what a reader of the class's page sees as its own methods and properties."""
    for name, member in vars(cls).items():
        if not name.startswith("_") and isinstance(
            member, types.FunctionType | property | classmethod | staticmethod
        ):
            yield name, getattr(cls, name) if not isinstance(member, property) else member


def test_all_is_sorted(module):
    assert module.__all__ == sorted(module.__all__, key=order)


def test_all_is_complete(module):
    public = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not isinstance(value, types.ModuleType)
        and getattr(value, "__module__", "").startswith("kernel_provisioner")
    }
    assert public <= set(module.__all__)


def test_everything_in_all_is_there(module):
    for name in module.__all__:
        getattr(module, name)


def test_every_public_name_is_documented(module):
    assert inspect.getdoc(module)
    bare = []
    for name in module.__all__:
        value = getattr(module, name)
        if inspect.isclass(value) and value.__module__.startswith("kernel_provisioner"):
            bare += [name] if not (value.__doc__ or "").strip() else []
            bare += [f"{name}.{n}" for n, member in members(value) if not inspect.getdoc(member)]
        elif inspect.isfunction(value) and not inspect.getdoc(value):
            bare.append(name)
    assert bare == []


def test_core_offers_what_is_promised():
    core = importlib.import_module("kernel_provisioner_core")
    errors = importlib.import_module("kernel_provisioner_core.errors")
    assert set(core.__all__) >= PROMISED | set(errors.__all__)
