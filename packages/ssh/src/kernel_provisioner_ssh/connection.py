"""One connection per host and user, shared by all kernels there, and kept over outages.

TCP loses nothing while a network is away; a new connection loses what was on its way through the old one. So a
connection that has fallen silent is kept, while a new one is tried beside it. Once that works, the old one still gets
the time to come back; only then is it replaced, and its session on the host ended first: a kernel that goes on hearing
the old one would not listen to clients that come again.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import ClassVar

from kernel_provisioner_core.errors import BackendUnavailableError
from kernel_provisioner_core.forwarder import Duplex
from kernel_provisioner_core.threads import start_thread
from kernel_provisioner_ssh.client import Answer, Ask, Client, Stage, Stream, Target
from kernel_provisioner_ssh.commands import session_end_script

__all__ = ["Connection"]

_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 30.0  # seconds between two tries to connect anew
_MOST_GRACE = 10.0  # seconds that a silent connection has left once a new one works
_RUN_LIMIT = 60.0  # seconds for one script
_DIAL_LIMIT = 30.0  # seconds until a channel is open

_log = logging.getLogger(__name__)


class Connection:
    """The way to a host; connects when it is first used, and again when it has to.

    Get one with `acquire`, and let go of it with `release`: the last one closes it.

    Args:
        target: Where to.
        keepalive_interval: Seconds between two questions whether the host still answers, and until an answer that
            has not come counts as silence.
        ask: Who is asked for passwords.
    """

    _connections: ClassVar[dict[tuple[Target, int], Connection]] = {}
    _registry: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, target: Target, keepalive_interval: float, ask: Ask | None = None) -> None:
        self.target = target
        self._interval = keepalive_interval
        self._ask = ask
        self._users = 0
        self._client: Client | None = None
        self._connecting = threading.Lock()
        self._closed = threading.Event()
        self._silent_since: float | None = None
        self._on_silence: list[Callable[[bool], None]] = []
        self._session: tuple[str, str] | None = None
        self.watch: object = None
        """What watches over the kernels that are reached through it."""

    # -- sharing --------------------------------------------------------------------------------

    @classmethod
    def acquire(
        cls, target: Target, keepalive_interval: float, ask: Ask | None = None
    ) -> Connection:
        """Return the connection to a target, which stays until the matching `release`."""
        key = (target, os.getpid())  # a connection does not outlast a fork
        with cls._registry:
            found = cls._connections.get(key)
            if found is None:
                found = cls._connections[key] = cls(target, keepalive_interval, ask)
            found._users += 1
            return found

    def release(self) -> None:
        """Let go of it; the last one closes it."""
        with self._registry:
            self._users -= 1
            if self._users:
                return
            for key, connection in list(self._connections.items()):
                if connection is self:
                    del self._connections[key]
        self._closed.set()
        client = self._client
        if client is not None:
            client.close()

    # -- using ----------------------------------------------------------------------------------

    def run(self, script: str, timeout: float = _RUN_LIMIT) -> Answer:
        """Run a script on the host.

        Raises:
            BackendUnavailableError: The host cannot be reached, or does not answer within `timeout` seconds.
        """
        return self.client().run(script, timeout)

    def open(self, script: str, timeout: float = _RUN_LIMIT) -> Stream:
        """Start a script that goes on; errors as `run`."""
        return self.client().open(script, timeout)

    def dial(self, port: int) -> Duplex:
        """Return a connection to a port of the host's loopback.

        Errors as `Client.dial`, and it never connects anew.
        """
        client = self._client
        if client is None or not client.is_active:
            raise BackendUnavailableError(f"There is no connection to {self.target.host} just now.")
        return client.dial("127.0.0.1", port, _DIAL_LIMIT)

    def client(self, on_stage: Callable[[Stage], object] = lambda stage: None) -> Client:
        """Return the client, connected first if there is none.

        Raises:
            BackendUnavailableError: The host cannot be reached.
        """
        with self._connecting:
            if self._closed.is_set():
                raise BackendUnavailableError(f"The connection to {self.target.host} is closed.")
            if self._client is None or not self._client.is_active:
                old, self._client = self._client, Client.connect(self.target, self._ask, on_stage)
                if old is None:
                    threading.Thread(
                        target=self._look_after, name="kernel-connection", daemon=True
                    ).start()
                else:
                    self._end_session(self._client)
                    old.close()
            return self._client

    @property
    def silent_seconds(self) -> float:
        """For how long the host has not answered, in seconds."""
        since = self._silent_since
        return 0.0 if since is None else time.monotonic() - since

    def note_session(self, pid: str, started: str) -> None:
        """Learn which process of the host is the server's end of the present connection."""
        self._session = (pid, started)

    def on_silence(self, listener: Callable[[bool], None]) -> None:
        """Have a function told when the host falls silent (True) and when it is heard again (False)."""
        self._on_silence.append(listener)

    def forget_silence(self, listener: Callable[[bool], None]) -> None:
        """Tell a function no longer; silent if it was not told."""
        if listener in self._on_silence:
            self._on_silence.remove(listener)

    # -- looking after it -----------------------------------------------------------------------

    def _look_after(self) -> None:
        """Ask every now and then whether the host still answers; a thread for the life of the connection."""
        while not self._closed.wait(self._interval):
            client = self._client
            if client is None or not client.is_active:
                self._reconnect()
            elif not self._answers(client, self._interval):
                self._outlast_silence(client)

    def _answers(self, client: Client, seconds: float) -> bool:
        answer = start_thread(client.ping)
        try:
            return answer.result(timeout=seconds)
        except TimeoutError:
            return False
        except Exception as error:  # noqa: BLE001 - whatever it is, there was no answer
            # before Python 3.11, a future's TimeoutError is another one
            _log.debug("No answer of %s: %s", client, error)
            return False

    def _outlast_silence(self, client: Client) -> None:
        """Keep a silent connection, and replace it only once a new one works and the old has had its time."""
        self._set_silent(True)
        _log.warning("%s has not answered for %g s.", self.target.host, self._interval)
        back = start_thread(client.ping)
        pause = _FIRST_PAUSE
        while client.is_active and not self._closed.is_set():
            if back.done() and back.result():
                _log.info("%s answers again.", self.target.host)
                self._set_silent(False)
                return
            try:
                new = Client.connect(self.target, self._ask)
            except BackendUnavailableError as error:
                _log.debug("No new connection: %s", error)
                self._wait(back.done, pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            self._wait(back.done, min(_MOST_GRACE, self.silent_seconds))
            if back.done() and back.result():
                new.close()
                continue
            with self._connecting:
                if self._closed.is_set():
                    new.close()
                    return
                self._end_session(new)
                self._client = new
            client.close()
            _log.warning("The connection to %s was replaced.", self.target.host)
            self._set_silent(False)
            return
        if not self._closed.is_set():
            self._reconnect()

    def _reconnect(self) -> None:
        """Connect anew after the connection was lost, with back-off, until it works."""
        self._set_silent(True)
        pause = _FIRST_PAUSE
        while not self._closed.is_set():
            try:
                self.client()
            except BackendUnavailableError as error:
                _log.debug("No new connection: %s", error)
                self._closed.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                break
        self._set_silent(False)

    def _end_session(self, new: Client) -> None:
        """End what is left on the host of the connection before this one."""
        session, self._session = self._session, None
        if session is None:
            return
        try:
            new.run(session_end_script(*session, mark="end"), _RUN_LIMIT)
        except BackendUnavailableError as error:
            _log.debug("The old session was not ended: %s", error)

    def _wait(self, done: Callable[[], bool], seconds: float) -> None:
        limit = time.monotonic() + seconds
        while not (done() or self._closed.is_set()) and time.monotonic() < limit:
            self._closed.wait(0.1)

    def _set_silent(self, silent: bool) -> None:
        self._silent_since = (self._silent_since or time.monotonic()) if silent else None
        for listener in list(self._on_silence):
            listener(silent)
