"""Talking to the kernel on all five channels."""

from __future__ import annotations

import asyncio

import zmq

from kernel_provisioner_core.conformance.bench import Bench, Kernel
from kernel_provisioner_core.conformance.check import check, expect, within
from kernel_provisioner_core.conformance.client import Client

BUSY = "print('busy', flush=True); import time; time.sleep(60)"


@check("talk.execute")
async def execute(bench: Bench) -> None:
    """Code is executed, and its output and its result come back.

    If it fails: shell and iopub do not lead to the same kernel.
    """
    kernel = await bench.start()
    expect(await kernel.evaluate("6 * 7") == "42", "print(6 * 7) did not print 42")


@check("talk.error")
async def error(bench: Bench) -> None:
    """An exception in the kernel comes back as an error reply with its name.

    If it fails: replies are lost or changed on their way.
    """
    reply = await (await bench.start()).execute("1 / 0")
    expect(reply.error == "ZeroDivisionError", f"1 / 0 was answered {reply.status} {reply.error}")


@check("talk.stdin")
async def stdin(bench: Bench) -> None:
    """`input()` in the kernel asks on the stdin channel and gets the answer.

    If it fails: the stdin port is not the one that the kernel listens on.
    """
    kernel = await bench.start()
    channels = kernel.client.channels
    # A kernel that asks before the client's stdin socket is connected asks nobody, and ZeroMQ
    # dials again only every 0.1 s. Nothing tells that it is connected.
    await asyncio.sleep(0.5)
    request = kernel.client.send("print('got ' + input('say: '))", allow_stdin=True)
    asked = await within(10, channels.get_stdin_msg(timeout=10), "an input_request")
    expect(asked["content"]["prompt"] == "say: ", "the prompt is another")
    channels.input("this")
    reply = await kernel.client.reply(request)
    expect(reply.text.endswith("got this"), "the answer did not arrive")


@check("talk.large_output")
async def large_output(bench: Bench) -> None:
    """20 MB of output arrive whole.

    If it fails: something between kernel and client has a limit on messages or drops them.
    """
    kernel = await bench.start()
    size = 20_000_000
    reply = await kernel.execute(f"print('x' * {size})", bench.target.time_limit / 2)
    arrived = reply.text.count("x")
    expect(arrived == size, f"of {size} characters {arrived} arrived")


@check("talk.buffers")
async def buffers(bench: Bench) -> None:
    """Binary buffers arrive unchanged, from the kernel and to it.

    If it fails: something between kernel and client takes messages for text.
    """
    kernel = await bench.start()
    blob = bytes(range(256)) * 400
    request = kernel.client.send(
        "try: create_comm\n"
        "except NameError: from comm import create_comm\n"
        "blob = bytes(range(256)) * 400\n"
        "comm = create_comm(target_name='conformance', data={}, buffers=[blob, b''])\n"
        "comm.on_msg(lambda message: comm.send(data={}, buffers=message['buffers']))\n"
    )
    opened = await kernel.client.published(request, "comm_open")
    expect([bytes(b) for b in opened["buffers"]] == [blob, b""], "buffers changed on their way")
    await kernel.client.reply(request)
    channels = kernel.client.channels
    content = {"comm_id": opened["content"]["comm_id"], "data": {}}
    message = channels.session.msg("comm_msg", content)
    channels.session.send(channels.shell_channel.socket, message, buffers=[blob[::-1]])
    back = await kernel.client.published(message["header"]["msg_id"], "comm_msg")
    expect([bytes(b) for b in back["buffers"]] == [blob[::-1]], "buffers changed on their way")


@check("talk.heartbeat")
async def heartbeat(bench: Bench) -> None:
    """The heartbeat channel echoes, also while the kernel is busy.

    If it fails: the heartbeat port is not the one that the kernel listens on.
    """
    kernel = await bench.start()
    await beats(kernel)
    await kernel.client.printed(kernel.client.send(BUSY), "busy")
    await beats(kernel)


async def beats(kernel: Kernel) -> None:
    """Send one ping on a new socket and wait for its echo."""
    socket = kernel.bench.context.socket(zmq.REQ)
    try:
        manager = kernel.manager
        if getattr(manager, "curve_publickey", None) is not None:
            socket.curve_publickey = manager.curve_publickey
            socket.curve_secretkey = manager.curve_secretkey
            socket.curve_serverkey = manager.curve_publickey
        socket.connect(f"tcp://{manager.ip}:{manager.hb_port}")
        await socket.send(b"ping")
        echo = await within(10, socket.recv(), "the echo of a heartbeat")
        expect(echo == b"ping", "the heartbeat's echo is another")
    finally:
        socket.close(linger=0)


@check("talk.control_while_busy")
async def control_while_busy(bench: Bench) -> None:
    """The control channel answers while the shell is busy.

    If it fails: the channels share one connection or one port.
    """
    kernel = await bench.start()
    await kernel.client.printed(kernel.client.send(BUSY), "busy")
    channels = kernel.client.channels
    request = channels.session.msg("kernel_info_request")
    channels.control_channel.send(request)
    reply = await within(10, channels.get_control_msg(timeout=10), "a reply on control")
    expect(reply["msg_type"] == "kernel_info_reply", "another reply came on control")


@check("talk.two_clients")
async def two_clients(bench: Bench) -> None:
    """Two clients of one kernel both get what is published, and each its own replies.

    If it fails: connections to a port are not kept apart.
    """
    kernel = await bench.start()
    second = Client.of(kernel.manager, bench.context)
    try:
        await second.ready(bench.target.launch_limit)
        one, two = kernel.client.send("print('one')"), second.send("print('two')")
        replies = await asyncio.gather(kernel.client.reply(one), second.reply(two))
        expect([reply.text for reply in replies] == ["one", "two"], "the replies were mixed up")
        await kernel.client.printed(two, "two")
    finally:
        second.close()


@check("talk.signatures")
async def signatures(bench: Bench) -> None:
    """A message with a wrong signature is not obeyed.

    If it fails: the kernel was not given the key, and obeys whoever reaches its ports.
    """
    kernel = await bench.start()
    stranger = Client.of(kernel.manager, bench.context)
    try:
        stranger.channels.session.key = b"another key"
        stranger.send("obeyed = True")
        # The honest request is sent later, so it is answered later.
        await asyncio.sleep(0.3)
        reply = await kernel.evaluate("'obeyed' in globals()")
        expect(reply == "False", "code with a wrong signature was executed")
    finally:
        stranger.close()
