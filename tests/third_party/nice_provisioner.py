"""A Jupyter kernel provisioner that launches kernels through `nice`."""

import asyncio
import contextlib
import os
import signal

from traitlets import Int

from kernel_provisioner_core import KernelProvisionerBase, launch_kernel


class NiceProvisioner(KernelProvisionerBase):
    """Runs a kernel as a child process that gives way to others."""

    niceness = Int(
        10, min=0, max=19, config=True, help="How far the kernel gives way; 19 the most."
    )

    process = None

    @property
    def has_process(self):
        return self.process is not None

    async def launch_kernel(self, cmd, **kwargs):
        command = ["nice", "-n", str(self.niceness), *cmd]
        self.process = launch_kernel(command, env=kwargs.get("env"), cwd=kwargs.get("cwd"))
        return self.connection_info

    async def poll(self):
        return self.process.poll() if self.process else 0

    async def wait(self):
        if self.process is None:
            return None
        while self.process.poll() is None:
            await asyncio.sleep(0.1)
        code, self.process = self.process.returncode, None
        return code

    async def send_signal(self, signum):
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it ended in this moment
                os.killpg(self.process.pid, signum)  # launch_kernel made it a group of its own

    async def kill(self, restart=False):
        await self.send_signal(signal.SIGKILL)

    async def terminate(self, restart=False):
        await self.send_signal(signal.SIGTERM)
