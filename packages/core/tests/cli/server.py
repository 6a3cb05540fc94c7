"""A server in the sense of the tests: it launches a kernel, runs code in it, says so, and waits to be ended.

python server.py KERNELSPEC CODE
"""

import os
import sys
import uuid

from jupyter_client.manager import KernelManager
from jupyter_core.paths import jupyter_runtime_dir

kernel_name, code = sys.argv[1:]
kernel_id = str(uuid.uuid4())
manager = KernelManager(
    kernel_name=kernel_name,
    connection_file=os.path.join(jupyter_runtime_dir(), f"kernel-{kernel_id}.json"),
)
manager.start_kernel(kernel_id=kernel_id, independent=True)
if code != "-":
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    client.execute(code, reply=True, timeout=60)
    client.stop_channels()
sys.stdout.write(f"launched {kernel_id}\n")  # the kernel prints there too
sys.stdout.flush()
sys.stdin.read()
manager.shutdown_kernel()
