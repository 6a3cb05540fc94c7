"""The tree of errors: drawn, complete, and usable by generic handlers."""

import inspect

import pytest

from kernel_provisioner_core import errors
from kernel_provisioner_core.errors import KernelProvisionerError, LaunchError

ERRORS = [cls for _, cls in inspect.getmembers(errors, inspect.isclass)]


def test_the_drawing_shows_every_error_and_its_built_in_base():
    for cls in ERRORS:
        drawn = next(
            line for line in errors.__doc__.splitlines() if f" {cls.__name__}" in f" {line}"
        )
        for base in cls.__bases__:
            if base is not Exception and not issubclass(base, KernelProvisionerError):
                assert f"{cls.__name__} ({base.__name__})" in drawn


def test_everything_is_one_tree():
    assert all(issubclass(cls, KernelProvisionerError) for cls in ERRORS)
    assert sorted(errors.__all__) == sorted(cls.__name__ for cls in ERRORS)


@pytest.mark.parametrize("cls", ERRORS, ids=lambda cls: cls.__name__)
def test_message_and_hint_are_shown_in_one_line(cls):
    error = cls("It broke.", hint="Mend it.")
    assert str(error) == "It broke. Mend it."
    assert (error.message, error.hint) == ("It broke.", "Mend it.")
    assert str(cls("It broke.")) == "It broke."


def test_a_launch_error_quotes_the_kernels_last_output():
    error = LaunchError("It died.", hint="Look.", kernel_id="k", output="ImportError: no module")
    assert str(error) == "It died. Look.\nThe kernel's last output:\nImportError: no module"
    assert error.kernel_id == "k"
