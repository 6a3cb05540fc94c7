"""A real jupyter_server as a process of its own."""

from __future__ import annotations

import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

LIMIT = 150.0
"""How long a step may take on a slow and busy machine, in seconds; never waited for in vain."""


class Directories:
    """Jupyter's directories below one folder, so that nothing of the user's is read or written."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.runtime = root / "runtime"
        self.kernels = root / "data" / "kernels"
        self.notebooks = root / "notebooks"
        for folder in (self.runtime, self.kernels, self.notebooks):
            folder.mkdir(parents=True, mode=0o700)

    @property
    def variables(self) -> dict[str, str]:
        return {
            "JUPYTER_CONFIG_DIR": str(self.root / "config"),
            "JUPYTER_DATA_DIR": str(self.root / "data"),
            "JUPYTER_RUNTIME_DIR": str(self.runtime),
            "IPYTHONDIR": str(self.root / "ipython"),
        }

    @property
    def environment(self) -> dict[str, str]:
        """The environment of an application that is started for a test."""
        # In a test of pytest's, ipykernel does not read its file descriptors 1 and 2.
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST", "JUPYTER"))}
        return {**inherited, **self.variables}

    def write_spec(self, name: str, kernel_json: dict[str, Any] | str) -> str:
        """Write a kernelspec, given as the content of kernel.json; return its name."""
        folder = self.kernels / name
        folder.mkdir(exist_ok=True)
        text = kernel_json if isinstance(kernel_json, str) else json.dumps(kernel_json)
        (folder / "kernel.json").write_text(text)
        return name


class Log:
    """What a process prints, read as it comes."""

    def __init__(self, stream: IO[str]) -> None:
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._over = False
        threading.Thread(target=self._read, args=(stream,), daemon=True).start()

    @property
    def text(self) -> str:
        with self._changed:
            return "".join(self._lines)

    def position(self) -> int:
        """Return how many characters there are, for `wait_for` to begin at."""
        return len(self.text)

    def wait_for(self, pattern: str, *, since: int = 0, limit: float = LIMIT) -> re.Match[str]:
        """Wait until the log has a match of the pattern."""
        found: re.Match[str] | None = None

        def is_there() -> bool:
            nonlocal found
            found = re.search(pattern, "".join(self._lines)[since:])
            return found is not None or self._over

        with self._changed:
            self._changed.wait_for(is_there, timeout=limit)
        assert found is not None, f"{pattern!r} is not in the log:\n{self.text[since:]}"
        return found

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                with self._changed:
                    self._lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._over = True
            self._changed.notify_all()


class Server:
    """A jupyter_server, started and answering.

    Args:
        directories: Its directories.
        *options: Command-line options, besides those that every server here has.
        **variables: Further environment variables.
    """

    def __init__(self, directories: Directories, *options: str, **variables: str) -> None:
        self.directories = directories
        self.token = secrets.token_hex(16)
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "jupyter_server"),
                "--ServerApp.ip=127.0.0.1",
                "--ServerApp.port=0",
                "--ServerApp.open_browser=False",
                "--ServerApp.allow_root=True",
                f"--ServerApp.root_dir={directories.notebooks}",
                *options,
            ],
            env={**directories.environment, "JUPYTER_TOKEN": self.token, **variables},
            cwd=directories.notebooks,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
        )
        assert self.process.stderr is not None
        self.log = Log(self.process.stderr)
        try:
            self.port = int(self.log.wait_for(r"http://127\.0\.0\.1:(\d+)/")[1])
            self._wait_until_it_listens()
        except BaseException:
            self.kill()
            raise

    def _wait_until_it_listens(self) -> None:
        """Try until it does: the server tells its address a moment too early, and nothing afterwards."""
        deadline = time.monotonic() + LIMIT
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=LIMIT).close()
                return
            except ConnectionRefusedError:
                assert self.process.poll() is None, self.log.text
                assert time.monotonic() < deadline, self.log.text
                time.sleep(0.02)

    @property
    def runtime_dir(self) -> Path:
        return self.directories.runtime

    def write_spec(self, name: str, kernel_json: dict[str, Any] | str) -> str:
        return self.directories.write_spec(name, kernel_json)

    def terminate(self) -> int:
        """End the server as a service manager does, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(LIMIT)
        except subprocess.TimeoutExpired as error:
            raise AssertionError(f"the server does not end:\n{self.log.text}") from error

    def kill(self) -> None:
        """Kill the server; nothing happens if it has ended."""
        self.process.kill()
        self.process.wait()
