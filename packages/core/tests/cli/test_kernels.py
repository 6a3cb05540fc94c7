import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kernel_provisioner_core import conformance
from kernel_provisioner_core.processes import ProcessIdentity
from kernel_provisioner_core.records import read_records, records_dir

SERVER = Path(__file__).with_name("server.py")

IPYKERNEL = ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}"]

# The conformance suite's: it starts at once, and does what it is told.
SMALL_KERNEL = [
    "python",
    str(Path(conformance.__file__).with_name("kernel.py")),
    "-f",
    "{connection_file}",
]


class Server:
    """A process that has launched a kernel."""

    def __init__(self, kernel_name, code):
        self.process = subprocess.Popen(
            [sys.executable, str(SERVER), kernel_name, code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        lines = iter(self.process.stdout.readline, "")
        self.kernel_id = next(line.split()[1] for line in lines if line.startswith("launched "))
        self.record = next(r for r in read_records() if r.kernel_id == self.kernel_id)
        self.kernel = ProcessIdentity(self.record.info["pid"], self.record.info["start_time"])

    @property
    def pid(self):
        return self.process.pid

    @property
    def files(self):
        """What is there of the kernel in the runtime directory."""
        return sorted(
            path.name for path in records_dir().parent.rglob("*") if self.kernel_id in path.name
        )

    def kill(self):
        """End the server as a crash does; the kernel goes on."""
        self.process.kill()
        self.process.wait()
        assert self.kernel.is_running()

    def kill_kernel(self):
        os.kill(self.kernel.pid, signal.SIGKILL)
        end = time.monotonic() + 10
        while self.kernel.is_running():
            assert time.monotonic() < end
            time.sleep(0.02)

    def close(self):
        self.process.kill()
        if self.kernel.is_running():
            self.kill_kernel()
        self.process.communicate()  # not before: the kernel has the pipe too


@pytest.fixture
def serve(tiny, provisioned):
    """Launch a kernel in a server process: `serve("mine", "print(1)")`."""
    servers, names = [], set()

    def start(name="mine", code="-", argv=SMALL_KERNEL, **config):
        if name not in names:
            provisioned(name, tiny, argv, **config)
            names.add(name)
        servers.append(Server(name, code))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def move_elsewhere(server):
    """Have the record say that it was made on another machine."""
    path = records_dir() / f"{server.kernel_id}.json"
    entries = json.loads(path.read_text())
    entries["owner"]["host"] = "elsewhere"
    path.write_text(json.dumps(entries))


def test_ps_without_kernels_is_an_empty_table(run):
    done = run("ps")
    assert (done.status, done.rows) == (0, [])
    assert run("ps", "--json").json == []


def test_ps_shows_a_running_kernel_and_its_owner(run, serve):
    server = serve()
    ((short, name, provisioner, state, owner, age),) = run("ps").rows
    assert server.kernel_id.startswith(short)
    assert name == "mine"
    assert provisioner == "kernel_provisioner_tiny:TinyProvisioner"
    assert state == "running"
    assert owner.startswith(f"{server.pid}@")
    assert re.fullmatch(r"\d+[sm]", age)


def test_ps_shows_no_key(run, serve):
    key = serve().record.info["connection_info"]["key"]
    assert key
    assert key not in run("ps", "--json").out
    assert key not in run("ps", "--json", "--debug").err


def test_a_kernel_whose_owner_is_gone_is_an_orphan(run, serve):
    server = serve()
    server.kill()
    (found,) = run("ps", "--json").json
    assert found["kernel_id"] == server.kernel_id
    assert found["state"] == "orphan"
    assert found["owner"]["running"] is False


def test_reap_ends_an_orphan_and_removes_what_was_made_for_it(run, serve):
    server = serve(capture_output=True)
    assert len(server.files) == 3  # connection file, record, log
    server.kill()
    done = run("reap")
    assert done.status == 0
    assert f"{server.kernel_id[:8]} (mine) stopped: its owner {server.pid}@" in done.out
    assert not server.kernel.is_running()
    assert server.files == []
    assert run("reap").out == "Nothing to reap.\n"


def test_reap_can_say_what_it_would_do(run, serve):
    server = serve()
    server.kill()
    (found,) = run("reap", "--dry-run", "--json").json
    assert (found["kernel_id"], found["done"]) == (server.kernel_id, "would be stopped")
    assert server.kernel.is_running()


def test_reap_leaves_kernels_with_an_owner_alone(run, serve):
    orphan, owned, crashed = serve(), serve(), serve()
    orphan.kill()
    crashed.kill_kernel()  # its server may be about to start it again
    (found,) = run("reap", "--json").json
    assert found["kernel_id"] == orphan.kernel_id
    assert owned.kernel.is_running()
    assert owned.files
    assert crashed.files


def test_reap_forgets_kernels_that_ended_with_their_owner(run, serve):
    server = serve()
    server.kill()
    server.kill_kernel()
    assert run("ps", "--json").json[0]["state"] == "ended"
    (found,) = run("reap", "--json").json
    assert found["done"] == "forgotten"
    assert server.files == []


def test_stop_lets_the_kernel_end_by_itself(run, serve, tmp_path):
    farewell = tmp_path / "farewell"
    code = f"import atexit, pathlib; atexit.register(pathlib.Path({str(farewell)!r}).touch)"
    server = serve(code=code, argv=IPYKERNEL)
    server.kill()
    done = run("stop", server.kernel_id[:6])
    assert done.status == 0
    assert f"stopped: it was launched by {server.pid}@" in done.out
    assert farewell.exists()
    assert server.files == []


def test_stop_now_does_not_wait_for_the_kernel(run, serve, tmp_path):
    farewell = tmp_path / "farewell"
    code = f"import atexit, pathlib; atexit.register(pathlib.Path({str(farewell)!r}).touch)"
    server = serve(code=code, argv=IPYKERNEL)
    server.kill()
    (found,) = run("stop", "mine", "--now", "--json").json
    assert found["done"] == "killed"
    assert not farewell.exists()
    assert not server.kernel.is_running()
    assert server.files == []


def test_stop_kills_a_kernel_that_does_not_listen(run, serve):
    deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(60)"
    server = serve(code="-", argv=["python", "-c", deaf, "{connection_file}"])
    time.sleep(0.5)  # until it ignores the signal; if it does not yet, it is stopped, not killed
    server.kill()
    (found,) = run("stop", server.kernel_id, "--json").json
    assert found["done"] == "killed"
    assert not server.kernel.is_running()


def test_stop_refuses_a_kernel_whose_owner_would_start_it_again(run, serve):
    server = serve()
    done = run("stop", server.kernel_id)
    assert done.status == 1
    assert f"belongs to {server.pid}@" in done.err
    assert "--force" in done.err
    assert server.kernel.is_running()
    assert run("stop", server.kernel_id, "--force").status == 0
    assert not server.kernel.is_running()


def test_stop_takes_several_kernels_and_goes_on_after_an_error(run, serve):
    first, second = serve("first"), serve("second")
    second.kill()
    done = run("stop", "first", "second")
    assert done.status == 1
    assert first.kernel.is_running()
    assert not second.kernel.is_running()


@pytest.mark.parametrize("command", ["stop", "logs"])
def test_a_kernel_that_is_not_there_is_told(run, serve, command):
    serve()
    done = run(command, "nowhere")
    assert done.status == 1
    assert "No kernel has an id that begins with 'nowhere'" in done.err
    assert "jupyter provisioner ps" in done.err


def test_a_name_that_fits_several_kernels_is_told(run, serve):
    ids = [serve().kernel_id[:8], serve().kernel_id[:8]]
    done = run("stop", "mine")
    assert done.status == 1
    assert all(short in done.err for short in ids)


def test_kernels_of_another_machine_are_unknown_and_left_alone(run, serve):
    server = serve()
    server.kill()
    move_elsewhere(server)
    (found,) = run("ps", "--json").json
    assert (found["state"], found["reason"]) == ("unknown", "it was launched on elsewhere")
    assert found["owner"]["running"] is None
    assert run("reap").out == "Nothing to reap.\n"
    done = run("stop", "mine", "--force")
    assert done.status == 1
    assert "Run this command on elsewhere." in done.err
    assert server.kernel.is_running()


def test_a_kernel_whose_provisioner_was_uninstalled_is_unknown(run, serve, monkeypatch):
    server = serve()
    server.kill()
    path = records_dir() / f"{server.kernel_id}.json"
    text = path.read_text()
    path.write_text(text.replace("kernel_provisioner_tiny:Tiny", "kernel_provisioner_tiny:Gone"))
    (found,) = run("ps", "--json").json
    assert found["state"] == "unknown"
    assert "GoneProvisioner" in found["reason"]
    assert run("reap", "--json").json == []
    path.write_text(text)


def test_files_that_are_no_records_do_no_harm(run, serve):
    serve()
    (records_dir() / "broken.json").write_text("{")
    assert len(run("ps").rows) == 1


PRINT = "import os; [os.write(1, b'line %d\\n' % i) for i in range(300)]"


@pytest.fixture
def printing(serve, monkeypatch):
    """A kernel that has printed 300 lines past its cells."""
    argv = ["python", "-c", f"{PRINT}; import time; time.sleep(60)", "{connection_file}"]
    server = serve(code="-", argv=argv, capture_output=True)
    log = records_dir() / f"{server.kernel_id}.log"
    end = time.monotonic() + 10
    while not log.read_text().endswith("line 299\n"):
        assert time.monotonic() < end
        time.sleep(0.02)
    return server


def test_logs_are_the_last_hundred_lines(run, printing):
    done = run("logs", printing.kernel_id[:8])
    assert done.out.splitlines() == [f"line {number}" for number in range(200, 300)]


def test_logs_are_as_many_lines_as_wanted(run, printing):
    assert run("logs", "mine", "--tail", "2").out == "line 298\nline 299\n"
    assert run("logs", "mine", "--tail", "1", "--json").json["lines"] == ["line 299"]


def test_logs_of_a_kernel_that_has_ended_can_still_be_read(run, printing):
    printing.kill_kernel()
    assert run("logs", "mine", "--tail", "1").out == "line 299\n"


def test_logs_of_a_kernel_of_another_machine_are_out_of_reach(run, serve):
    move_elsewhere(serve())
    done = run("logs", "mine")
    assert done.status == 1
    assert "it was launched on elsewhere" in done.err
