"""`install`: write a checked kernel.json."""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec
from jupyter_core.paths import SYSTEM_JUPYTER_PATH
from traitlets.config import Configurable

from kernel_provisioner_core.cli import output
from kernel_provisioner_core.cli.assignment import config_from
from kernel_provisioner_core.cli.kernelspec import (
    check_options,
    kernelspec_manager,
    parse_kernel_json,
)
from kernel_provisioner_core.cli.listing import load_provisioner
from kernel_provisioner_core.errors import ConfigurationError

__all__ = ["install_kernelspec"]


def install_kernelspec(options: argparse.Namespace) -> int:
    """Write the kernel.json that the options describe, if the provisioner accepts them."""
    if ":" in options.provisioner:
        raise ConfigurationError(
            f"kernel.json cannot name the class {options.provisioner!r}, only an installed provisioner.",
            hint="Declare it as an entry point `jupyter_client.kernel_provisioners` of its package.",
        )
    name = options.name.lower()
    provisioner_class = load_provisioner(options.provisioner)
    config = config_from(provisioner_class, options.set)
    kernel_json = {
        **_base_kernelspec(provisioner_class, config, options.argv, name),
        **({"language": options.language} if options.language else {}),
        **({"interrupt_mode": options.interrupt_mode} if options.interrupt_mode else {}),
        **({"env": dict(options.env)} if options.env else {}),
        "display_name": options.display_name or name,
    }
    resources = kernel_json.pop("resources", None)
    kernel_json["metadata"] = {
        **kernel_json.get("metadata", {}),
        "kernel_provisioner": {"provisioner_name": options.provisioner, "config": config},
    }
    parse_kernel_json(kernel_json, "what would be installed")
    check_options(provisioner_class, config, KernelSpec(**kernel_json))
    if not any("{connection_file}" in word for word in kernel_json["argv"]):
        output.warning(
            "the command does not mention {connection_file}: the kernel may not find its ports"
        )

    path = _write(kernel_json, resources, name, _kernels_dir(options), replace=options.replace)
    if options.json:
        output.print_json({"name": name, "path": str(path), "kernel_json": kernel_json})
    else:
        output.line(f"Installed kernelspec {name} in {path}")
        output.line(f"Next: jupyter provisioner check {name}")
    found = kernelspec_manager().find_kernel_specs().get(name)
    if found is None:
        output.warning(
            f"Jupyter does not look for kernelspecs in {path.parent}; see `jupyter --paths`"
        )
    elif not _same(Path(found), path):
        output.warning(f"Jupyter finds another kernelspec of this name first: {found}")
    return 0


def _base_kernelspec(
    provisioner_class: type[Configurable],
    config: dict[str, Any],
    argv: list[str] | None,
    name: str,
) -> dict[str, Any]:
    """Return the kernelspec to begin with: argv, language, metadata, and `resources`: a directory of logos, or those.

    Without a command, a provisioner that has `find_kernelspecs` is asked what there is where its kernels run (in an
    image, on a host), before ipykernel's is taken. It is called with the options, and returns a list of names, contents
    of kernel.json, and logos (file names to bytes).
    """
    find = getattr(provisioner_class, "find_kernelspecs", None)
    if argv is None and find is not None:
        with output.working("looking for kernelspecs"):
            found = find(config)
        if found:
            _, kernel_json, logos = _choose(found, name)
            return {**kernel_json, "resources": logos}
    command = argv or ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    if not any("ipykernel" in word for word in command):
        return {"argv": command, "language": ""}
    try:
        from ipykernel.kernelspec import RESOURCES, get_kernel_dict
    except ImportError as error:
        if argv:
            return {"argv": command, "language": "python"}
        raise ConfigurationError(
            "There is no command for the kernel: none was given, and ipykernel is not installed here.",
            hint="Give one at the end: `-- python -m ipykernel_launcher -f {connection_file}`.",
        ) from error
    return {**get_kernel_dict(), "argv": command, "resources": RESOURCES}


def _choose(found: list[Any], name: str) -> Any:
    """Return the kernelspec to install: the only one, or the one of the name that it is to have here."""
    if len(found) == 1:
        return found[0]
    for one in found:
        if one[0] == name:
            return one
    names = ", ".join(sorted(one[0] for one in found))
    raise ConfigurationError(
        f"There are several kernelspecs: {names}.",
        hint="Give one of these as --name, or the kernel's command at the end, after `--`.",
    )


def _kernels_dir(options: argparse.Namespace) -> Path:
    if options.user:
        return Path(kernelspec_manager().user_kernel_dir)
    if options.prefix:
        return Path(os.path.abspath(options.prefix), "share", "jupyter", "kernels")
    return Path(SYSTEM_JUPYTER_PATH[0], "kernels")


def _write(
    kernel_json: dict[str, Any],
    resources: str | dict[str, bytes] | None,
    name: str,
    kernels: Path,
    *,
    replace: bool,
) -> Path:
    """Install through jupyter_client, beside the place, and move it there whole."""
    place = kernels / name
    if not replace and (place / "kernel.json").exists():
        raise _exists(place)
    with _telling_of(kernels), contextlib.ExitStack() as stack:
        kernels.mkdir(parents=True, exist_ok=True)
        # Beside the kernelspecs, on the same file system, and not where they are looked for.
        beside = stack.enter_context(_temporary_directory(kernels.parent))
        source = beside / "source"
        source.mkdir()
        if isinstance(resources, dict):
            for file, content in resources.items():
                (source / file).write_bytes(content)
        else:
            for logo in sorted(Path(resources).glob("logo-*")) if resources else []:
                shutil.copyfile(logo, source / logo.name)
        text = json.dumps(kernel_json, indent=2, ensure_ascii=False)
        (source / "kernel.json").write_text(text + "\n", encoding="utf-8")
        manager = kernelspec_manager(kernel_dirs=[str(beside / "share" / "jupyter" / "kernels")])
        try:
            staged = manager.install_kernel_spec(str(source), name, prefix=str(beside))
        except ValueError as error:
            raise ConfigurationError(str(error), hint="Choose another --name.") from error
        if replace and os.path.lexists(place):
            os.replace(place, beside / "replaced")
        try:
            os.rename(staged, place)
        except OSError as error:
            if os.path.lexists(beside / "replaced"):
                os.replace(beside / "replaced", place)
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                raise _exists(place) from error  # somebody was faster
            raise
    return place


@contextlib.contextmanager
def _temporary_directory(parent: Path) -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix=".kernelspec-", dir=parent))
    try:
        yield path
    finally:
        replaced = path / "replaced"
        if replaced.is_symlink():  # as `jupyter kernelspec install` never makes, but people do
            replaced.unlink()
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def _telling_of(kernels: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "Free space there, or choose another place: --user, --sys-prefix or --prefix."
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            hint = "Install it elsewhere: --user, --sys-prefix or --prefix."
        raise ConfigurationError(
            f"The kernelspec cannot be written to {kernels}: {error.strerror or error}.", hint=hint
        ) from error


def _exists(place: Path) -> ConfigurationError:
    return ConfigurationError(
        f"There is a kernelspec in {place} already.", hint="Give --replace, or another --name."
    )


def _same(one: Path, other: Path) -> bool:
    with contextlib.suppress(OSError):
        return one.samefile(other)
    return False
