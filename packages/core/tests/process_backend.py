"""A backend for RemoteProvisioner on processes of this machine: the smallest real one."""

import os
import shutil
import signal
import subprocess
import tempfile
import threading

from kernel_provisioner_core import KernelExit, KernelNotFoundError, LaunchError
from kernel_provisioner_core.connection import PORT_NAMES, write_private_file
from kernel_provisioner_core.errors import BackendUnavailableError
from kernel_provisioner_core.remote import RemoteProvisioner
from kernel_provisioner_core.watch import Watch


class Daemon:
    """Keeps processes, tells of their ends, and can be away."""

    def __init__(self):
        self.created = set()
        self.processes = {}
        self.requests = 0
        self.changed = threading.Condition()
        self.away = False
        self.news = []

    def start(self, name, argv, env):
        self.requests += 1
        with open(os.path.join(name, "log"), "wb") as log:
            process = subprocess.Popen(
                argv,
                env={**os.environ, **env},
                start_new_session=True,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.processes[name] = process
        threading.Thread(target=self._follow, args=(name, process), daemon=True).start()

    def _follow(self, name, process):
        code = process.wait()
        with self.changed:
            self.news.append((name, KernelExit(code)))
            self.changed.notify_all()

    def leave(self):
        with self.changed:
            self.away = True
            self.changed.notify_all()

    def come_back(self):
        with self.changed:
            self.away = False
            self.changed.notify_all()


class DaemonWatch(Watch):
    def __init__(self, daemon):
        super().__init__()
        self.daemon = daemon
        self.interrupted = False

    def follow(self):
        if self.daemon.away:
            raise BackendUnavailableError("The daemon is away.")
        position = len(self.daemon.news)
        yield "", None
        while True:
            with self.daemon.changed:
                while not (
                    self.interrupted or self.daemon.away or len(self.daemon.news) > position
                ):
                    self.daemon.changed.wait()
                if self.interrupted:
                    self.interrupted = False
                    return
                if self.daemon.away:
                    raise BackendUnavailableError("The daemon went away.")
                news, position = self.daemon.news[position:], len(self.daemon.news)
            yield from news

    def list(self):
        found = dict.fromkeys(self.daemon.created)
        for name, process in self.daemon.processes.items():
            code = process.poll()
            found[name] = None if code is None else KernelExit(code)
        return found

    def interrupt(self):
        with self.daemon.changed:
            self.interrupted = True
            self.daemon.changed.notify_all()


DAEMON = Daemon()


class ProcessProvisioner(RemoteProvisioner):
    """A kernel as a process of `DAEMON`, in a directory of its own."""

    connection_file_there = "connection.json"

    def create(self, request):
        folder = tempfile.mkdtemp(prefix="process-backend-")
        write_private_file(os.path.join(folder, "connection.json"), request.connection_text)
        self.seen_request = request
        DAEMON.created.add(folder)
        return {"folder": folder, "argv": list(request.argv), "env": request.env}

    def start(self, handle):
        if not os.path.isdir(handle["folder"]):
            raise KernelNotFoundError("The directory is gone.")
        argv = [
            word.replace("connection.json", handle["folder"] + "/connection.json")
            for word in handle["argv"]
        ]
        try:
            DAEMON.start(handle["folder"], argv, handle["env"])
        except FileNotFoundError as error:
            raise LaunchError("No such command.") from error

    def watch(self, handle):
        return DaemonWatch.of(DAEMON, lambda: DaemonWatch(DAEMON)), handle["folder"]

    def signal(self, handle, signum):
        DAEMON.requests += 1
        try:
            os.killpg(DAEMON.processes[handle["folder"]].pid, signum)
        except ProcessLookupError as error:
            raise KernelNotFoundError("It has ended.") from error

    def remove(self, handle):
        DAEMON.created.discard(handle["folder"])
        process = DAEMON.processes.pop(handle["folder"], None)
        if process is not None and process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        shutil.rmtree(handle["folder"], ignore_errors=True)

    def logs(self, handle, tail):
        with open(os.path.join(handle["folder"], "log"), "rb") as file:
            return file.read()[-tail:].decode()

    def attach(self, handle):
        if handle["folder"] not in DAEMON.processes:
            raise KernelNotFoundError("It is gone.")

    def kernel_connection(self, info):
        return {"ip": info["ip"], **{name: info[name] for name in PORT_NAMES}}
