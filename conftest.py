"""Skips tests whose service is not there, or fails them where the service was promised."""

import functools

import pytest

import services


@functools.cache
def _answers(name: str) -> bool:
    return services.load(name).find()


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        for name in marker.args:
            if _answers(name):
                continue
            missing = f"needs {name}: {services.load(name).HINT}"
            if name in services.required():
                pytest.fail(f"KERNEL_PROVISIONERS_REQUIRE names {name}, but the test {missing}")
            pytest.skip(missing)
