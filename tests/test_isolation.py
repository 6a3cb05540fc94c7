"""What may import what, read from the sources, and what an import of core brings in."""

import ast
import subprocess
import sys
from collections.abc import Iterator

import pytest
from packaging.requirements import Requirement

# Where the import name is not the distribution's.
IMPORTED_AS = {
    "importlib-metadata": "importlib_metadata",
    "pyyaml": "yaml",
    "pyzmq": "zmq",
    "websocket-client": "websocket",
}
CORE = "kernel_provisioner_core"
EXTRAS = ("cli", "conformance")  # the subpackages of core that need the extras of the same names
# jupyter_client depends on it, and cannot do without.
IMPLIED = {"jupyter_client": {"jupyter_core"}}


def is_guarded(node: ast.AST) -> bool:
    """Return whether a module gets by without what the body of this statement imports."""
    return isinstance(node, ast.Try) and any(
        isinstance(name, ast.Name) and name.id in {"ImportError", "ModuleNotFoundError"}
        for handler in node.handlers
        if handler.type is not None
        for name in ast.walk(handler.type)
    )


def imports(node: ast.AST, *, guarded: bool = True) -> Iterator[str]:
    """Yield the dotted names that are imported somewhere below a node, perhaps without the guarded."""
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and not node.level:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    skipped = node.body if is_guarded(node) and not guarded else []
    for child in ast.iter_child_nodes(node):
        if child not in skipped:
            yield from imports(child, guarded=guarded)


def foreign(package, *, guarded=True) -> set[tuple[str, str]]:
    """Return (module, name) for what is neither the package's own nor the standard library's."""
    return {
        (path.relative_to(package.source).as_posix(), top)
        for path in package.source.rglob("*.py")
        for name in imports(ast.parse(path.read_text(), str(path)), guarded=guarded)
        if (top := name.partition(".")[0]) not in sys.stdlib_module_names | {package.module}
    }


def declared(requirements):
    names = {Requirement(requirement).name for requirement in requirements}
    found = {IMPORTED_AS.get(name, name.replace("-", "_")) for name in names}
    return found.union(*(IMPLIED.get(name, set()) for name in found))


@pytest.mark.parametrize(
    ("source", "guarded", "expected"),
    [
        ("def f():\n  import rich.table", False, {"rich.table"}),
        ("from zmq import auth", False, {"zmq.auth"}),
        ("from . import x", True, set()),
        ("try:\n  import rich\nexcept ImportError:\n  import zmq", True, {"rich", "zmq"}),
        ("try:\n  import rich\nexcept ImportError:\n  import zmq", False, {"zmq"}),
        ("try:\n  import rich\nexcept ValueError:\n  pass", False, {"rich"}),
    ],
)
def test_imports_are_seen_wherever_they_are(source, guarded, expected):
    assert set(imports(ast.parse(source), guarded=guarded)) == expected


def test_a_package_imports_only_what_it_declares(package, packages):
    allowed = declared(package.project["dependencies"])
    if CORE in allowed:  # traits are the language of core's base class
        allowed |= declared(packages[0].project["dependencies"])
    extras = package.project.get("optional-dependencies", {})
    strangers = {
        (module, name)
        for module, name in foreign(package, guarded=False)
        if name not in allowed | declared(extras.get(module.partition("/")[0], []))
    }
    assert strangers == set()


def test_no_package_imports_a_sibling_but_core(package):
    siblings = {name for _, name in foreign(package) if name.startswith("kernel_provisioner")}
    assert siblings <= {CORE}


def test_core_does_without_the_optional_dependencies(packages):
    optional = {"ipykernel", "jupyter_client", "pytest", "rich"}
    found = {(m, n) for m, n in foreign(packages[0]) if m.partition("/")[0] not in EXTRAS}
    assert not {(module, name) for module, name in found if name in optional}


def test_core_does_without_its_optional_parts(packages):
    for path in packages[0].source.glob("*.py"):
        names = set(imports(ast.parse(path.read_text())))
        parts = {tuple(name.split(".")[:2]) for name in names}
        assert not {(CORE, part) for part in EXTRAS} & parts, path.name


def test_importing_core_is_cheap():
    heavy = {"asyncio", "importlib_metadata", "jupyter_client", "pytest", "rich", "zmq"}
    code = f"import sys, {CORE}; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert CORE in run.stdout.split()
    assert not heavy & set(run.stdout.split())
