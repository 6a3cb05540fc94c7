"""The kernel's standard output and error, kept in a bounded log.

One thread for all captured kernels of the process copies what they print from pipes into one file each. A file
is cut to its newer half when it is full, so it never holds more than its limit.
"""

from __future__ import annotations

import contextlib
import os
import select
import selectors
import threading
from pathlib import Path

__all__ = ["OutputLog", "tail_of"]

_CHUNK = 1 << 16


class OutputLog:
    """The last output of one kernel, in a file of mode 0600.

    Args:
        path: The file; one that is there is continued.
        limit: What it may hold, in bytes.

    Raises:
        OSError: The file cannot be written.
    """

    def __init__(self, path: Path, limit: int) -> None:
        """Open the file and a pipe to it."""
        self.path = path
        self._limit = limit
        self._copied = 0
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        self._lock = threading.Lock()
        try:
            self._read_end, self.write_end = os.pipe()
        except OSError:
            os.close(self._file)
            raise
        os.set_blocking(self._read_end, False)

    def start(self) -> None:
        """Copy from now on, and let go of the write end: the kernel has its own."""
        os.close(self.write_end)
        self.write_end = -1
        _pump.add(self)

    def tail(self, size: int) -> str:
        """Return the last `size` bytes that were printed here so far, as text; does not block.

        What the file held before, the output of the kernel's earlier lives, is left out.
        """
        while self._copy():
            pass
        return tail_of(self.path, min(size, self._copied))

    def close(self) -> None:
        """Stop copying. May be called twice; the file stays."""
        if self.write_end >= 0:  # never started
            os.close(self.write_end)
            self.write_end = -1
        _pump.remove(self)
        with self._lock:
            for fd in (self._read_end, self._file):
                if fd >= 0:
                    os.close(fd)
            self._read_end = self._file = -1

    def _fileno(self) -> int:
        return self._read_end

    def _is_over(self) -> bool:
        """Return whether nobody can print any more."""
        with self._lock:
            if self._read_end < 0:
                return True
            poll = select.poll()
            poll.register(self._read_end, select.POLLIN)
            events = poll.poll(0)
        return bool(events) and not events[0][1] & select.POLLIN

    def _copy(self) -> bool:
        """Copy what is there now; return whether there was anything."""
        with self._lock:
            if self._read_end < 0:
                return False
            try:
                data = os.read(self._read_end, _CHUNK)
            except BlockingIOError:
                return False
            with contextlib.suppress(OSError):  # a full disk loses output, and stops no kernel
                self._append(data[-self._limit :])
            return bool(data)

    def _append(self, data: bytes) -> None:
        self._copied += len(data)
        size = os.fstat(self._file).st_size
        if size + len(data) > self._limit:
            keep = max(0, min(size, self._limit // 2, self._limit - len(data)))
            kept = os.pread(self._file, keep, size - keep)
            os.ftruncate(self._file, 0)
            data = kept + data
        while data:
            data = data[os.write(self._file, data) :]


def tail_of(path: Path, size: int) -> str:
    """Return the last `size` bytes of a log as text; empty if there is no such file."""
    try:
        with path.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - size))
            return file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""


class _Pump:
    """The thread that copies, started with the first log and ended with the last."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._logs: set[OutputLog] = set()
        self._selector: selectors.BaseSelector | None = None
        self._pid = 0

    def add(self, log: OutputLog) -> None:
        with self._lock:
            if self._selector is None or self._pid != os.getpid():  # no thread survives a fork
                self._selector = selectors.DefaultSelector()
                self._pid = os.getpid()
                self._logs = set()
                threading.Thread(
                    target=self._run, args=(self._selector,), name="kernel-output", daemon=True
                ).start()
            self._logs.add(log)
            self._selector.register(log._fileno(), selectors.EVENT_READ, log)

    def remove(self, log: OutputLog) -> None:
        with self._lock:
            if log in self._logs and self._selector is not None:
                self._logs.discard(log)
                with contextlib.suppress(KeyError, ValueError):
                    self._selector.unregister(log._fileno())

    def _run(self, selector: selectors.BaseSelector) -> None:
        while True:
            for key, _ in selector.select(timeout=1.0):
                # readable, and yet nothing: the last writer is gone (or `tail` was faster)
                if not key.data._copy() and key.data._is_over():
                    self.remove(key.data)
            with self._lock:
                if not self._logs:
                    self._selector = None
                    selector.close()
                    return


_pump = _Pump()
