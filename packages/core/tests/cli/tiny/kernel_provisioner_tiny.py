"""A provisioner for the tests of the command line: a child process, a record of it, and its output in a file."""

import asyncio
import os
import signal
import subprocess
from pathlib import Path

import traitlets

from kernel_provisioner_core import KernelExit, KernelNotFoundError, KernelProvisionerBase
from kernel_provisioner_core.processes import ProcessIdentity
from kernel_provisioner_core.records import KernelRecord, records_dir, remove_record, write_record


class TinyProvisioner(KernelProvisionerBase):
    image = traitlets.Unicode(config=True, help="The image.").tag(example="quay.io/x:3.11")
    launch_timeout = traitlets.Float(30.0, config=True, help="How long.").tag(unit="seconds")
    labels = traitlets.Dict(value_trait=traitlets.Unicode(), config=True, help="Labels.")
    mounts = traitlets.List(traitlets.Dict(), config=True, help="Mounts.")
    pull_policy = traitlets.Enum(["always", "never"], "never", config=True, help="When to pull.")
    resources = traitlets.Dict(
        per_key_traits={"cpu": traitlets.Float(), "memory": traitlets.Unicode()},
        config=True,
        help="Resources.",
    )
    user = traitlets.Union(
        [traitlets.Int(), traitlets.Unicode()], default_value=None, allow_none=True, config=True
    )
    capture_output = traitlets.Bool(config=True, help="Whether to keep the output.")

    progress = None
    identity = None
    child = None
    code = None

    @property
    def has_process(self):
        return self.identity is not None

    async def poll(self):
        if self.identity is None:
            return self.code or 0
        if self.child is not None:
            self.code = self.child.poll()
        elif not self.identity.is_running():
            self.code = 255
        if self.code is not None:
            self.last_exit = KernelExit(self.code)
        return self.code

    async def wait(self):
        while await self.poll() is None:
            await asyncio.sleep(0.02)
        self.identity = None
        return self.code

    async def send_signal(self, signum):
        if self.identity is not None and await self.poll() is None:
            os.kill(self.identity.pid, signum)

    async def kill(self, restart=False):
        await self.send_signal(signal.SIGKILL)

    async def terminate(self, restart=False):
        await self.send_signal(signal.SIGTERM)

    async def launch_kernel(self, cmd, **kwargs):
        output = None
        if self.progress is not None:
            self.progress("pulling [1/3]")
        if self.capture_output:
            records_dir().mkdir(parents=True, exist_ok=True)
            output = self.log_path.open("wb")
        self.child = subprocess.Popen(
            cmd,
            env=kwargs["env"],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        if output is not None:
            output.close()
        self.identity = ProcessIdentity.of(self.child.pid)
        write_record(
            KernelRecord(
                kernel_id=self.kernel_id,
                provisioner=f"{__name__}:TinyProvisioner",
                kernel_name=self.parent.kernel_name,
                info=await self.get_provisioner_info(),
                options={"capture_output": self.capture_output},
            )
        )
        return self.connection_info

    async def cleanup(self, restart=False):
        if not restart:
            await self.kill()
            if self.has_process:
                await self.wait()
            remove_record(self.kernel_id)
            self.log_path.unlink(missing_ok=True)
        await super().cleanup(restart=restart)

    async def get_provisioner_info(self):
        info = await super().get_provisioner_info()
        return {**info, "pid": self.identity.pid, "start_time": self.identity.start_time}

    async def load_provisioner_info(self, provisioner_info):
        await super().load_provisioner_info(provisioner_info)
        identity = ProcessIdentity(provisioner_info["pid"], provisioner_info["start_time"])
        if not identity.is_running():
            raise KernelNotFoundError("It has ended.")
        self.identity = identity

    def get_logs(self, tail=1 << 16):
        return self.log_path.read_text()[-tail:] if self.log_path.exists() else ""

    @property
    def log_path(self) -> Path:
        return records_dir() / f"{self.kernel_id}.log"


class ForgetfulProvisioner(TinyProvisioner):
    """Leaves its record behind."""

    async def cleanup(self, restart=False):
        path = Path(records_dir(), f"{self.kernel_id}.json")
        kept = path.read_text() if path.exists() else None
        await super().cleanup(restart=restart)
        if kept is not None and not restart:
            path.write_text(kept)


class DeafProvisioner(TinyProvisioner):
    """Does not deliver the interrupt."""

    async def send_signal(self, signum):
        if signum != signal.SIGINT:
            await super().send_signal(signum)


class StrangeProvisioner(TinyProvisioner):
    """Raises what nobody expects."""

    async def launch_kernel(self, cmd, **kwargs):
        raise RuntimeError("the moon is in the way")
