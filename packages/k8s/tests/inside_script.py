"""Runs in a pod: starts kernels as a server in the cluster does, and prints what it sees as JSON."""

import asyncio
import json
import sys
import time

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager

IMAGE = sys.argv[1]


class OneKernelspec(KernelSpecManager):
    def __init__(self, config, metadata):
        super().__init__()
        self.spec = KernelSpec(
            argv=["python3", "-m", "ipykernel_launcher", "-f", "{connection_file}"],
            display_name="In a pod",
            language="python",
            metadata={
                "kernel_provisioner": {
                    "provisioner_name": "kernel-provisioner-k8s",
                    "config": {"image": IMAGE, "pull_policy": "IfNotPresent", **config},
                },
                **metadata,
            },
        )

    def get_kernel_spec(self, kernel_name):
        return self.spec


async def printed(client, code):
    texts = []

    def collect(message):
        if message["msg_type"] == "stream":
            texts.append(message["content"]["text"])

    await client.execute_interactive(code, timeout=30, output_hook=collect)
    return "".join(texts).strip()


async def look(config, metadata):
    manager = AsyncKernelManager(
        kernel_name="pod", kernel_spec_manager=OneKernelspec(config, metadata)
    )
    begun = time.monotonic()
    await manager.start_kernel()
    client = manager.client()
    client.start_channels()
    await client.wait_for_ready(60)
    seen = {"seconds": time.monotonic() - begun, "printed": await printed(client, "print(6 * 7)")}
    provisioner = manager.provisioner
    seen["direct"] = provisioner._direct
    seen["encrypted"] = bool(provisioner.connection_info.get("curve_secretkey"))
    from kernel_provisioner_k8s.client import pod_path

    handle = provisioner._handle
    path = pod_path(handle["namespace"], handle["name"])
    pod = provisioner._cluster().request("GET", path)
    seen["owner"] = [owner["name"] for owner in pod["metadata"].get("ownerReferences", [])]
    await manager.interrupt_kernel()
    await manager.restart_kernel()
    await client.wait_for_ready(60)
    seen["after restart"] = await printed(client, "print(7 * 7)")
    client.stop_channels()
    await manager.shutdown_kernel()
    return seen


async def main():
    curve = {"supported_encryption": ["curve"]}
    print(json.dumps({"what": "auto, can encrypt", **await look({}, curve)}), flush=True)
    print(json.dumps({"what": "auto, cannot encrypt", **await look({}, {})}), flush=True)


asyncio.run(main())
