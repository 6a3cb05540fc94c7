"""Sets up a bare machine: nothing is needed but Python 3.10 or newer and pip.

python3 dev demo                   install into .venv and run a kernel
python3 dev test [TOX ARGUMENTS]   run all tests, with the services that they need
python3 dev up [SERVICE ...]       bring up the services of dev/services, as root on Debian
python3 dev down [SERVICE ...]     end them
python3 dev images                 build the images that tests run kernels in, in your own container engine
python3 dev bare COMMAND ...       run a command in a copy of the repository on a bare Debian, as root
"""

from __future__ import annotations

import argparse
import configparser
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

if sys.version_info < (3, 10):  # noqa: UP036 - started by whatever python3 is
    sys.exit(f"Python 3.10 or newer is needed; {sys.executable} is {sys.version.split()[0]}.")

import bare
import results
import services
from environment import make_environment, show
from services import docker

ROOT = Path(__file__).resolve().parent.parent


def demo() -> int:
    """Launch a kernel through kernel-provisioner-local and show what it prints."""
    scripts = make_environment(
        ROOT / ".venv",
        f"--editable={ROOT / 'packages' / 'core'}[cli]",
        f"--editable={ROOT / 'packages' / 'local'}",
        "ipykernel",
    )
    env = os.environ | {"PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
    install = ["jupyter", "provisioner", "install", "kernel-provisioner-local", "--sys-prefix"]
    install += ["--replace", "--name", "local-python", "--display-name", "Python (local)"]
    install += ["--", "python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    if show(install, env=env).returncode != 0:
        return 1
    run = ["jupyter", "provisioner", "run", "local-python", "-c", "print(6*7)"]
    ran = show(run, env=env, stdout=subprocess.PIPE, text=True)
    print(ran.stdout, end="")
    if ran.returncode != 0 or ran.stdout.strip() != "42":
        print(f"The kernel should have printed 42; exit status {ran.returncode}.", file=sys.stderr)
        return 1
    return 0


def test(arguments: list[str]) -> int:
    """Run tox with the services that can be had; say what was skipped and how to provide it."""
    began = time.monotonic()
    started = []
    try:
        for name in services.needed(factors(arguments)):
            service = services.load(name)
            if service.find() or not services.can_bring_up():
                continue
            print(f"{name}: being set up", flush=True)
            if not service.running():
                started.append(name)
            os.environ.update(service.up())
        scripts = make_environment(ROOT / ".cache" / "tox", "tox>=4.25,<5")
        shutil.rmtree(results.FOLDER, ignore_errors=True)
        results.FOLDER.mkdir(parents=True)
        tox = [str(scripts / "tox"), "run", f"--result-json={results.VERDICTS}", *arguments]
        status = show(tox, cwd=ROOT).returncode
    finally:
        for name in reversed(started):
            services.load(name).down()
    if not results.VERDICTS.exists():
        print("tox did not come to its end.", file=sys.stderr)
        return status or 1
    print(f"\nAll of it took {time.monotonic() - began:.0f} s.")
    return results.report(services.required()) or status


def factors(arguments: list[str]) -> set[str]:
    """Return the parts of the names of the environments that tox is to run with these arguments."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("-e", action="append")
    for_tox = arguments[: arguments.index("--")] if "--" in arguments else arguments
    asked = parser.parse_known_args(for_tox)[0].e or [os.environ.get("TOXENV", "")]
    if asked in ([""], ["ALL"]):
        settings = configparser.ConfigParser(interpolation=None)
        settings.read(ROOT / "tox.ini", encoding="utf-8")
        asked = [settings["tox"]["env_list"]]
    return set(re.findall(r"\w+", " ".join(asked)))


def up(wanted: list[str]) -> int:
    """Bring up services and print the variables that lead to them."""
    if not services.can_bring_up():
        sys.exit("Services are set up as root on Debian only; elsewhere provide them yourself.")
    for name in wanted or services.names():
        for key, value in services.load(name).up().items():
            print(f"export {key}={shlex.quote(value)}")
    return 0


def down(wanted: list[str]) -> int:
    """End the services that `up` started."""
    for name in wanted or services.names():
        services.load(name).down()
    return 0


def main(arguments: list[str]) -> int:
    """Do what the command line says; return the exit status."""
    match arguments:
        case ["demo"]:
            return demo()
        case ["test", *rest]:
            return test(rest)
        case ["up", *rest]:
            return up(rest)
        case ["down", *rest]:
            return down(rest)
        case ["images"]:
            docker.provide_images()
            return 0
        case ["bare", _, *_]:
            return bare.run(arguments[1:])
        case _:
            print(__doc__, end="")
            return 0 if arguments in (["--help"], ["-h"]) else 2


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except subprocess.CalledProcessError as error:
        sys.exit(f"Failed with exit status {error.returncode}.")
