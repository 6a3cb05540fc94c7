"""A real Jupyter for each backend."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

# pytest's import mode "importlib" leaves a folder's other modules out of reach
sys.path.insert(0, str(Path(__file__).parent))

from backends import BACKENDS, CAPABILITIES, Backend
from frontend import Frontend
from server_process import LIMIT, Directories, Server


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        "claims(capability): the test is for backends that claim this capability (tests/jupyter/backends.py)",
    )


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.path.parent == Path(__file__).parent and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(2 * LIMIT))  # a step that fails says so first


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "backend" in metafunc.fixturenames:
        parameters = [
            pytest.param(b, id=b.name, marks=[pytest.mark.needs(b.needs)] if b.needs else [])
            for b in BACKENDS
        ]
        metafunc.parametrize("backend", parameters, scope="session")


@pytest.fixture(autouse=True)
def _claimed(request: pytest.FixtureRequest, backend: Backend) -> None:
    for marker in request.node.iter_markers("claims"):
        for capability in marker.args:
            meaning = CAPABILITIES[capability]
            if capability not in backend.claims:
                pytest.skip(f"{backend.name} does not claim {capability!r}: {meaning}")


@pytest.fixture(scope="session")
def server(backend: Backend, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server for all tests that leave it as it was; its kernelspec `good` works."""
    directories = Directories(tmp_path_factory.mktemp(f"server-{backend.name}"))
    directories.write_spec("good", backend.kernel_json())
    server = Server(directories)
    try:
        yield server
        server.terminate()
    finally:
        server.kill()


@pytest.fixture
def directories(backend: Backend, tmp_path: Path) -> Directories:
    """Directories of the test's own; the kernelspec `good` works."""
    directories = Directories(tmp_path / "jupyter")
    directories.write_spec("good", backend.kernel_json())
    return directories


@pytest.fixture
def start_server(directories: Directories) -> Iterator[Callable[..., Server]]:
    """Start servers of the test's own, in its own directories; they are killed at the end."""
    started: list[Server] = []

    def start(*options: str, **variables: str) -> Server:
        started.append(Server(directories, *options, **variables))
        return started[-1]

    yield start
    for server in started:
        server.kill()


@pytest.fixture
async def connect() -> AsyncIterator[Callable[[Server], Frontend]]:
    """Make clients of servers."""
    made: list[Frontend] = []

    def connect(server: Server) -> Frontend:
        made.append(Frontend(server))
        return made[-1]

    yield connect
    for frontend in made:
        frontend.close()


@pytest.fixture
def frontend(server: Server, connect: Callable[[Server], Frontend]) -> Frontend:
    """A client of the server for all tests."""
    return connect(server)
