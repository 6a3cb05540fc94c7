"""The kernel's environment, its working directory, and paths in it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kernel_provisioner_core.conformance.bench import Bench, Kernel
from kernel_provisioner_core.conformance.check import Level, check, expect
from kernel_provisioner_core.conformance.target import Capability

_NAME = "KERNEL_PROVISIONER_CONFORMANCE_VARIABLE"


async def _variable(kernel: Kernel, name: str = _NAME) -> str:
    return await kernel.evaluate(f"__import__('os').environ.get({name!r})")


@contextmanager
def _server_variable(value: str) -> Iterator[None]:
    """A variable in the environment of this process, which is the server."""
    os.environ[_NAME] = value
    try:
        yield
    finally:
        del os.environ[_NAME]


@check("environment.kernelspec")
async def kernelspec(bench: Bench) -> None:
    """The kernelspec's `env` is in the kernel's environment, as it stands, odd characters included.

    If it fails: it is dropped, or passed through a shell.
    """
    value = "$(id) `id` \"quoted\" 'too'; é \\"
    kernel = await bench.start(bench.spec(env={_NAME: value}))
    expect(await _variable(kernel) == value, "the variable is missing or another")


@check("environment.substitution", Level.SHOULD)
async def substitution(bench: Bench) -> None:
    """`${NAME}` in the kernelspec's `env` is replaced by what the caller's environment has for it.

    If it fails: use `string.Template.safe_substitute`, as jupyter_client does.
    """
    with _server_variable("inner"):
        kernel = await bench.start(bench.spec(env={"OUTER": f"a-${{{_NAME}}}-b"}))
    expect(await _variable(kernel, "OUTER") == "a-inner-b", "the reference was not replaced")


@check("environment.unknown_reference")
async def unknown_reference(bench: Bench) -> None:
    """A `${NAME}` in the kernelspec's `env` that stands for nothing does not stop the launch.

    If it fails: `string.Template.substitute` raises; use `safe_substitute`.
    """
    await bench.start(bench.spec(env={"OUTER": "a-${NO_SUCH_VARIABLE_ANYWHERE}-b $"}))


@check("environment.launch", needs=[Capability.INHERITS_ENVIRONMENT])
async def launch(bench: Bench) -> None:
    """`start_kernel(env=...)` is the kernel's environment, and the server's own is not mixed in.

    If it fails: `env` of the keyword arguments replaces `os.environ`; only the kernelspec's `env`
    comes on top.
    """
    env = {**os.environ, _NAME: "given"}
    with _server_variable("server"):
        kernel = await bench.start(env=env)
        expect(await _variable(kernel) == "given", "the variable of env= did not arrive")
        del env[_NAME]
        other = await bench.start(env=env)
        expect(await _variable(other) == "None", "a variable that is not in env= arrived")


@check("environment.server", needs=[Capability.INHERITS_ENVIRONMENT])
async def server(bench: Bench) -> None:
    """Without `env=` the kernel gets the server's environment.

    If it fails: start from a copy of `os.environ`.
    """
    with _server_variable("server"):
        kernel = await bench.start()
    expect(await _variable(kernel) == "server", "the server's variable did not arrive")


@check("environment.filtered", needs=[Capability.FILTERS_ENVIRONMENT])
async def filtered(bench: Bench) -> None:
    """The server's environment does not reach the kernel: neither as such nor by `env=`, which
    servers fill with a copy of it.

    If it fails: it holds the server's tokens. Pass an allow-list.
    """
    with _server_variable("secret"):
        kernel = await bench.start(env=dict(os.environ))
        expect(await _variable(kernel) == "None", "a variable of the server reached the kernel")


@check("environment.caller_untouched")
async def caller_untouched(bench: Bench) -> None:
    """A launch changes neither the caller's `env` nor `os.environ` nor the kernelspec's `env`.

    If it fails: copy before you change; what leaks here reaches every later kernel.
    """
    given = {**os.environ, _NAME: "given"}
    kernel = bench.kernel(bench.spec(env={"OUTER": f"${{{_NAME}}}"}))
    before = dict(given), dict(os.environ), dict(kernel.spec.env)
    await kernel.start(env=given)
    for name, old, new in zip(
        ("env=", "os.environ", "the kernelspec's env"),
        before,
        (given, dict(os.environ), dict(kernel.spec.env)),
        strict=True,
    ):
        changed = sorted(key for key in {*old, *new} if old.get(key) != new.get(key))
        expect(not changed, f"the launch changed {name}: {', '.join(changed)}")


@check("environment.working_directory", needs=[Capability.WORKING_DIRECTORY])
async def working_directory(bench: Bench) -> None:
    """`start_kernel(cwd=...)` is the kernel's working directory.

    If it fails: take `cwd` from the keyword arguments of the launch.
    """
    folder = _folder(bench)
    kernel = await bench.start(cwd=str(folder))
    where = await kernel.evaluate("__import__('os').getcwd()")
    expect(os.path.realpath(where) == str(folder), f"the working directory is {where}")


def _folder(bench: Bench) -> Path:
    folder = bench.directory / "working directory"
    folder.mkdir()
    return folder


@check("environment.resolve_path")
async def resolve_path(bench: Bench) -> None:
    """`resolve_path` returns a str or None, and raises nothing, also for what does not exist.

    If it fails: return None for what cannot or shall not be resolved.
    """
    kernel = await bench.start()
    for path in ("no-such-file", "/no/such/file", "~/no-such-file", "../..", ""):
        resolved = kernel.provisioner.resolve_path(path)
        expect(isinstance(resolved, (str, type(None))), f"for {path!r} it returned {resolved!r}")


@check("environment.resolve_path_finds", needs=[Capability.RESOLVE_PATH])
async def resolve_path_finds(bench: Bench) -> None:
    """`resolve_path` resolves a path against the kernel's working directory, and returns None for a
    file that does not exist.

    If it fails: remember the `cwd` of the launch.
    """
    folder = _folder(bench)
    (folder / "module.py").write_text("")
    kernel = await bench.start(cwd=str(folder))
    for path in ("module.py", str(folder / "module.py")):
        resolved = kernel.provisioner.resolve_path(path)
        expect(resolved == str(folder / "module.py"), f"{path!r} was resolved to {resolved!r}")
    resolved = kernel.provisioner.resolve_path("missing.py")
    expect(resolved is None, f"a file that does not exist was resolved to {resolved!r}")
