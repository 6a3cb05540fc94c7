"""A registry of images on 127.0.0.1, and another door to it that asks for a name and a password.

    KERNEL_PROVISIONERS_REGISTRY             127.0.0.1:PORT
    KERNEL_PROVISIONERS_REGISTRY_WITH_AUTH   127.0.0.1:PORT
    KERNEL_PROVISIONERS_REGISTRY_AUTH        NAME:PASSWORD

Both have the same images: `kernel:test`, whose layers the engine of these tests has already, and `kernel:pull`, which
has two layers of 24 MB more that no engine has: pulling it transfers them.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import random
from functools import partial
from pathlib import Path

from services import _image, _machine, docker
from services._engine import Engine

HINT = (
    "Set KERNEL_PROVISIONERS_REGISTRY, _REGISTRY_WITH_AUTH and _REGISTRY_AUTH as dev/services/registry.py says, "
    "with the images that it names."
)
NEEDED_BY = frozenset({"docker"})
_NAMES = (
    "KERNEL_PROVISIONERS_REGISTRY",
    "KERNEL_PROVISIONERS_REGISTRY_WITH_AUTH",
    "KERNEL_PROVISIONERS_REGISTRY_AUTH",
)
_USER, _PASSWORD = "jovyan", "open sesame"
# What htpasswd -Bbn prints: the registry takes bcrypt only.
_ACCOUNTS = "jovyan:$2y$05$kernelprovisionerstese/8xUs6RGXRXngPi45ogdtajoY2y0ZYe\n"
_LAYER = 24 << 20  # bytes


def find() -> bool:
    """Return whether both have the images."""
    registry, guarded, account = (os.environ.get(name) for name in _NAMES)
    if not (registry and guarded and account):
        return False
    return "pull" in _tags(registry) and "pull" in _tags(guarded, account)


def running() -> bool:
    """Return whether registries of our own are there."""
    return any(daemon.pid is not None for daemon in _daemons())


def up() -> dict[str, str]:
    """Start both and push the images, by the engine of this environment or our own."""
    folder = _machine.folder("registry")
    engine = Engine(docker.up().get("DOCKER_HOST") or Engine.given().host)
    with _machine.lock(folder):
        before = running()
        try:
            _machine.install("docker-registry")
            environ = _start(folder)
            _push(engine, environ[_NAMES[0]])
        except BaseException:
            if not before:
                _stop()
            raise
    return environ


def down() -> None:
    """End both; what they store stays, so that it is there quickly the next time."""
    with _machine.lock(_machine.folder("registry")):
        _stop()


def _daemons() -> list[_machine.Daemon]:
    folder = _machine.folder("registry")
    return [_machine.Daemon(folder, name) for name in ("open", "guarded")]


def _start(folder: Path) -> dict[str, str]:
    addresses = []
    for daemon in _daemons():
        file = folder / f"{daemon.name}.port"
        port = _machine.port(file) if daemon.pid is None else int(file.read_text())
        addresses.append(f"127.0.0.1:{port}")
        settings = folder / f"{daemon.name}.yml"
        settings.write_text(json.dumps(_settings(folder, daemon.name, addresses[-1])))
        daemon.start(["docker-registry", "serve", str(settings)], partial(_answers, addresses[-1]))
    return dict(zip(_NAMES, [*addresses, f"{_USER}:{_PASSWORD}"], strict=True))


def _settings(folder: Path, name: str, address: str) -> dict[str, object]:
    """Return what the registry reads as YAML, of which JSON is a part."""
    (folder / "accounts").write_text(_ACCOUNTS)
    auth = {"htpasswd": {"realm": "kernels", "path": str(folder / "accounts")}}
    return {
        "version": 0.1,
        "log": {"level": "warn", "accesslog": {"disabled": True}},
        "storage": {
            "filesystem": {"rootdirectory": str(folder / "images")},
            "delete": {"enabled": True},
        },
        "http": {"addr": address},
        **({"auth": auth} if name == "guarded" else {}),
    }


def _stop() -> None:
    for daemon in _daemons():
        daemon.stop()


def _push(engine: Engine, registry: str) -> None:
    """Push the images, unless those of this recipe are there; their names do not stay in the engine."""
    if _image.RECIPE in _tags(registry):
        return
    name = f"{registry}/kernel"
    layers = {f"layer{n}": random.Random(n).randbytes(_LAYER) for n in (1, 2)}
    lines = "".join(f"COPY {layer} /opt/{layer}\n" for layer in layers)
    engine.build(f"{name}:pull", f"FROM {_image.NAME}:test\n{lines}", layers)
    tags = ["test", "pull", _image.RECIPE]  # the recipe comes last, when all is there
    for tag in tags[0], tags[-1]:
        engine.post(f"/images/{_image.NAME}:test/tag", repo=name, tag=tag)
    for tag in tags:
        engine.push(f"{name}:{tag}")
    for tag in tags:
        engine.remove_image(f"{name}:{tag}")


def _tags(registry: str, account: str = "") -> list[str]:
    status, body = _get(registry, "/v2/kernel/tags/list", account)
    return list(json.loads(body)["tags"] or []) if status == 200 else []


def _answers(registry: str) -> bool:
    return _get(registry, "/v2/")[0] in (200, 401)


def _get(registry: str, path: str, account: str = "") -> tuple[int, bytes]:
    """Return the status and the body of an answer; 0 if there is none."""
    token = base64.b64encode(account.encode()).decode()
    headers = {"Authorization": f"Basic {token}"} if account else {}
    connection = http.client.HTTPConnection(registry, timeout=2)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    except (OSError, http.client.HTTPException):
        return 0, b""
    finally:
        connection.close()
