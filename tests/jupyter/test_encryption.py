"""A server that requires CurveZMQ between itself and its kernels."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import zmq
from backends import Backend
from frontend import Frontend
from jupyter_client.session import Session
from server_process import LIMIT, Directories, Server

from kernel_provisioner_core import read_connection_file

pytestmark = pytest.mark.claims("encryption")


def heard(info: dict[str, Any], *, encrypted: bool, limit: float) -> bool:
    """Return whether the kernel answers a correctly signed request."""
    session = Session(key=info["key"].encode())
    with zmq.Context() as context, context.socket(zmq.DEALER) as shell:
        shell.linger = 0
        if encrypted:
            shell.curve_serverkey = info["curve_publickey"].encode()
            shell.curve_publickey, shell.curve_secretkey = zmq.curve_keypair()
        shell.connect(f"tcp://{info['ip']}:{info['shell_port']}")
        session.send(shell, "kernel_info_request")
        return bool(shell.poll(limit * 1000))


async def test_a_kernel_executes_and_talks_to_nobody_in_the_clear(
    directories: Directories,
    start_server: Callable[..., Server],
    connect: Callable[[Server], Frontend],
    backend: Backend,
) -> None:
    directories.write_spec("secret", backend.kernel_json(supported_encryption="curve"))
    server = start_server("--MappingKernelManager.transport_encryption=required")
    frontend = connect(server)
    async with frontend.kernel("secret") as kernel_id, frontend.channels(kernel_id) as channels:
        assert (await channels.execute("print(6 * 7)")).stdout == "42\n"
        info = read_connection_file(directories.runtime / f"kernel-{kernel_id}.json")
        assert heard(info, encrypted=True, limit=LIMIT)
        # a kernel on this machine answers within milliseconds, or not at all
        assert not heard(info, encrypted=False, limit=2)

        await frontend.restart(kernel_id)
        await channels.reconnected()
        assert (await channels.execute("print(6 * 7)")).stdout == "42\n"
        assert (
            read_connection_file(directories.runtime / f"kernel-{kernel_id}.json")[
                "curve_publickey"
            ]
            == info["curve_publickey"]
        )
        for secret in (info["key"], info["curve_secretkey"]):
            assert secret not in server.log.text
