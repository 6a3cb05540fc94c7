"""`check`: a doctor for a kernelspec.

It tries each stage of a kernel's life, tells its time, and what is wrong with the first that fails.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict, dataclass
from typing import IO, Any

from traitlets.config import Configurable

from kernel_provisioner_core.cli import output
from kernel_provisioner_core.cli.kernelspec import (
    FoundKernelspec,
    check_options,
    default_provisioner,
    find_kernelspec,
)
from kernel_provisioner_core.cli.listing import load_provisioner
from kernel_provisioner_core.cli.session import KernelSession, Message
from kernel_provisioner_core.cli.signals import let_go_on_the_next, signals_handled_by
from kernel_provisioner_core.errors import KernelProvisionerError, LaunchError
from kernel_provisioner_core.factory import KernelProvisionerFactory
from kernel_provisioner_core.records import read_records

__all__ = ["check_kernel"]

_MARK = "kernel-provisioner-check"

# Code that says the mark and then sleeps, by language in lower case.
_SLEEPERS = {
    "bash": f"echo {_MARK}; sleep 60",
    "julia": f'println("{_MARK}"); sleep(60)',
    "python": f"import time\nprint('{_MARK}', flush=True)\ntime.sleep(60)",
    "r": f"cat('{_MARK}\\n'); flush.console(); Sys.sleep(60)",
}

_EXECUTION_LIMIT = 30.0  # seconds for 1+1, on a busy machine far away
_INTERRUPT_LIMIT = 10.0  # seconds from the interrupt to the end of the cell


@dataclass(frozen=True)
class _Result:
    """How one stage went, as `--json` has it."""

    stage: str
    verdict: str
    seconds: float
    detail: str = ""
    hint: str = ""
    output: str = ""


class _SkippedError(Exception):
    """Raised by a stage that says nothing about this kernel, with the reason."""


def check_kernel(options: argparse.Namespace) -> int:
    """Try each stage of the kernel's life; 1 if one fails."""
    with output.children_apart() as printed:
        doctor = _Doctor(options.kernel, options.startup_timeout, printed, quiet=options.json)
        status = asyncio.run(doctor.examine())
    if options.json:
        output.print_json([asdict(result) for result in doctor.results])
    return status


class _Doctor:
    """One examination."""

    def __init__(
        self, kernel_name: str, startup_timeout: float, printed: IO[bytes], *, quiet: bool
    ) -> None:
        self.results: list[_Result] = []
        self._kernel_name = kernel_name
        self._startup_timeout = startup_timeout
        self._printed = printed
        self._quiet = quiet
        self._signum = 0
        self._language = ""
        self._address: dict[str, Any] = {}
        self._found: FoundKernelspec
        self._class: type[Configurable]
        self._session: KernelSession | None = None
        self._on_progress: Callable[[str], None] = lambda text: None

    async def examine(self) -> int:
        """Go through the stages up to the first that fails, and return the exit status."""
        work = asyncio.ensure_future(self._examine())

        def end(signum: int) -> None:
            if self._signum:
                let_go_on_the_next(signum)
                return
            self._signum = signum
            work.cancel()

        with signals_handled_by(end):
            try:
                return await work
            except asyncio.CancelledError:
                return 128 + self._signum

    async def _examine(self) -> int:
        # A provisioner that knows more stages than these (a host's hops, a cluster's permissions) would
        # bring them along in its class; their place is before the launch.
        stages: tuple[tuple[str, Callable[[], Awaitable[str]], str], ...] = (
            ("kernelspec", self._find_kernelspec, ""),
            ("provisioner", self._load_provisioner, ""),
            ("options", self._check_options, "Correct `config` in the kernel.json."),
            ("launch", self._launch, "Correct `argv` in the kernel.json, or what it starts."),
            ("answer", self._answer, "Run the kernel's command by hand: it has to bind its ports."),
            (
                "execute",
                self._execute,
                "The kernel talks, but does not execute: see its own documentation.",
            ),
            ("interrupt", self._interrupt, 'Try "interrupt_mode": "message" in the kernel.json.'),
            ("shutdown", self._shut_down, ""),
            ("remains", self._look_for_remains, "Report this to the authors of the provisioner."),
        )
        try:
            for name, stage, cure in stages:
                if not await self._try(name, stage, cure):
                    return 1
        finally:
            if self._session is not None:
                with contextlib.suppress(
                    KernelProvisionerError
                ):  # it was told, or it is the lesser trouble
                    await self._session.shutdown(now=True)
        return 0

    async def _try(self, name: str, stage: Callable[[], Awaitable[str]], cure: str) -> bool:
        begun = time.perf_counter()

        def result(verdict: str, detail: str, **more: str) -> _Result:
            return _Result(name, verdict, round(time.perf_counter() - begun, 3), detail, **more)

        try:
            with output.working(name) as update:
                self._on_progress = lambda text: update(f"{name}: {text}")
                detail = await stage()
        except _SkippedError as skipped:
            self._note(result("skipped", str(skipped)))
        except KernelProvisionerError as error:
            printed = error.output if isinstance(error, LaunchError) else ""
            if not printed and self._session is not None:
                printed = self._session.last_output()
            error.hint = error.hint or cure
            self._note(result("failed", error.message, hint=error.hint, output=printed))
            if not self._quiet:
                output.error(KernelProvisionerError(error.message, hint=error.hint))
                if printed:
                    output.last_output(printed)
            return False
        else:
            self._note(result("ok", detail))
        return True

    def _note(self, result: _Result) -> None:
        self.results.append(result)
        if self._quiet:
            return
        style = {"ok": "green", "skipped": "yellow", "failed": "bold red"}[result.verdict]
        detail = "" if result.verdict == "failed" else result.detail
        output.styled_line(
            (f"{result.verdict:<8}", style),
            f"{result.stage:<12}{result.seconds:>7.2f} s  {detail}".rstrip(),
        )

    # -- the stages -----------------------------------------------------------------------------

    async def _find_kernelspec(self) -> str:
        self._found = find_kernelspec(self._kernel_name)
        return str(self._found.path)

    async def _load_provisioner(self) -> str:
        name = self._found.provisioner_name
        self._class = load_provisioner(name)
        origin = " and ".join(KernelProvisionerFactory.instance().distributions_of(name))
        named = "kernel_provisioner" in self._found.spec.metadata
        default = "" if named or name != default_provisioner() else ", jupyter_client's default"
        return f"{name} ({origin}{default})"

    async def _check_options(self) -> str:
        check_options(self._class, self._found.config, self._found.spec)
        return ", ".join(sorted(self._found.config)) or "none set"

    async def _launch(self) -> str:
        self._session = KernelSession(self._found, self._class, self._printed)
        await self._session.launch(self._on_progress)
        self._address = dict(self._session.manager.get_connection_info())
        return f"{self._address['transport']}://{self._address['ip']}"

    async def _answer(self) -> str:
        session = self._running()
        await session.wait_until_ready(self._startup_timeout)
        info = await session.kernel_info(self._startup_timeout)
        language = info.get("language_info", {})
        self._language = str(language.get("name") or self._found.spec.language).lower()
        words = (language.get("name"), language.get("version"), info.get("implementation"))
        return " ".join(str(word) for word in words if word)

    async def _execute(self) -> str:
        answer = ""

        def listen(message: Message) -> None:
            nonlocal answer
            if message["header"]["msg_type"] in ("execute_result", "display_data"):
                answer = str(message["content"]["data"].get("text/plain", ""))

        try:
            reply = await asyncio.wait_for(self._running().execute("1+1", listen), _EXECUTION_LIMIT)
        except asyncio.TimeoutError as error:
            raise KernelProvisionerError(
                f"The kernel did not execute 1+1 within {_EXECUTION_LIMIT:g} seconds."
            ) from error
        if reply["status"] != "ok":
            raise KernelProvisionerError(
                f"Executing 1+1 raised {reply.get('ename')}: {reply.get('evalue')}."
            )
        return f"1+1 is {answer}" if answer else "1+1"

    async def _interrupt(self) -> str:
        code = _SLEEPERS.get(self._language)
        if code is None:
            raise _SkippedError(
                f"no code for {self._language or 'this language'} to interrupt is known"
            )
        session = self._running()
        sleeping = asyncio.Event()

        def listen(message: Message) -> None:
            if _MARK in str(message["content"].get("text", "")):
                sleeping.set()

        cell = asyncio.ensure_future(session.execute(code, listen))
        heard = asyncio.ensure_future(sleeping.wait())
        try:
            await asyncio.wait(
                {cell, heard}, timeout=_EXECUTION_LIMIT, return_when=asyncio.FIRST_COMPLETED
            )
            begun = time.perf_counter()
            await session.interrupt()
            done, _ = await asyncio.wait({cell}, timeout=_INTERRUPT_LIMIT)
            if not done:
                raise KernelProvisionerError(
                    f"The code went on for {_INTERRUPT_LIMIT:g} seconds after the interrupt."
                )
            reply = cell.result()
        finally:
            for task in (cell, heard):
                task.cancel()
            await asyncio.gather(cell, heard, return_exceptions=True)
        seconds = time.perf_counter() - begun
        await self._execute()  # it has to go on working
        return f"{reply.get('ename') or reply['status']} after {seconds:.2f} s"

    async def _shut_down(self) -> str:
        session = self._running()
        limit = session.manager.shutdown_wait_time
        get_limit = getattr(session.provisioner, "get_shutdown_wait_time", None)
        limit = get_limit(limit) if get_limit else limit
        begun = time.perf_counter()
        await session.shutdown()
        # jupyter_client sends SIGTERM after half of that time, and does not tell
        slow = time.perf_counter() - begun > limit / 2
        return "the kernel did not end by itself and was terminated" if slow else ""

    async def _look_for_remains(self) -> str:
        session = self._running()
        remains = []
        if session.provisioner.has_process:
            remains.append("the kernel's process")
        if os.path.exists(session.connection_file):  # noqa: ASYNC240 - nobody else is on this loop
            remains.append(f"the connection file {session.connection_file}")
        if any(record.kernel_id == session.kernel_id for record in read_records()):
            remains.append("the record of the kernel")
        if await self._listens():
            remains.append(f"a listener on the heartbeat's port {self._address['hb_port']}")
        if remains:
            raise KernelProvisionerError(f"The shutdown left behind {', '.join(remains)}.")
        return "nothing"

    async def _listens(self) -> bool:
        if self._address.get("transport") != "tcp":
            return False
        try:
            _, writer = await asyncio.wait_for(
                asyncio.open_connection(self._address["ip"], self._address["hb_port"]), 2.0
            )
        except (OSError, asyncio.TimeoutError):
            return False
        writer.close()
        return True

    def _running(self) -> KernelSession:
        assert self._session is not None
        return self._session
