"""A fresh process that loads a provisioner's info and does what it is told, a line at a time.

Run as a script by the suite. The first line on stdin is a JSON object that says which class, with
which options and which info, and is answered when the provisioner is made; each further line is a call;
each answer is one line of JSON.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.util
import json
import sys
from typing import Any


def _load_class(task: dict[str, Any]) -> Any:
    """The class by its module, or by its file if the module is not importable here."""
    try:
        found: Any = importlib.import_module(task["module"])
    except ImportError:
        if not task["file"]:
            raise
        spec = importlib.util.spec_from_file_location("conformance_target", task["file"])
        assert spec is not None
        assert spec.loader is not None
        found = importlib.util.module_from_spec(spec)
        sys.modules[spec.name] = found
        spec.loader.exec_module(found)
    for part in task["qualname"].split("."):
        found = getattr(found, part)
    return found


def _answer(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer, default=repr) + "\n")
    sys.stdout.flush()


async def _serve() -> None:
    from jupyter_client.kernelspec import KernelSpec

    task = json.loads(await asyncio.to_thread(sys.stdin.readline))
    sys.path[:] = task["path"]
    provisioner = _load_class(task)(
        kernel_id=task["kernel_id"],
        kernel_spec=KernelSpec(**task["kernel_spec"]),
        parent=None,
        **task["config"],
    )
    _answer({"result": None})
    while True:
        line = await asyncio.to_thread(sys.stdin.readline)
        if not line:
            return
        name, *arguments = json.loads(line)
        try:
            if name == "address":
                info = provisioner.connection_info
                key = info["key"]
                result: Any = {k: v for k, v in info.items() if k.endswith("_port") or k == "ip"}
                result["key"] = key.decode() if isinstance(key, bytes) else "not bytes"
            elif name == "has_process":
                result = provisioner.has_process
            else:
                result = await asyncio.wait_for(getattr(provisioner, name)(*arguments), 15)
            answer = {"result": result}
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        _answer(answer)


if __name__ == "__main__":
    asyncio.run(_serve())
