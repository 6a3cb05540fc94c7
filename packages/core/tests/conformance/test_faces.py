"""The two faces of the suite, the report, and the runner's care for what it runs."""

from __future__ import annotations

import ast
import contextlib
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from broken_provisioners import CurveKeysAreBytes, HangsInLaunch, TimeIsNone
from good_provisioner import GoodProvisioner

from kernel_provisioner_core.conformance import (
    Capability,
    KernelIdentity,
    Level,
    Probe,
    ProcessProbe,
    Target,
    Verdict,
    bench,
    kernel,
    run,
    runner,
    select_checks,
)
from kernel_provisioner_core.conformance.checks import launch
from kernel_provisioner_core.errors import ConfigurationError, KernelProvisionerError

QUICK = ["before.*", "launch.answers"]


# -- plain Python ---------------------------------------------------------------------------------


def test_report_says_that_a_good_provisioner_conforms() -> None:
    seen = []
    report = run(Target(GoodProvisioner), select=QUICK, on_result=seen.append)
    assert report.conforms
    assert report.exit_status == 0
    assert seen == list(report.results)
    assert "conforms" in report.summary


def test_failed_must_makes_the_exit_status_1() -> None:
    report = run(Target(TimeIsNone), select=["before"])
    assert report.failed() == ["before.times"]
    assert report.exit_status == 1


def test_failed_should_leaves_the_exit_status_0() -> None:
    report = run(Target("local-provisioner"), select=["failure.leaves_no_file"])
    assert report.failed(Level.SHOULD) == ["failure.leaves_no_file"]
    assert report.exit_status == 0


def test_expected_failure_is_no_failure() -> None:
    target = Target(TimeIsNone, expected_failures={"before.times": "issue 3"})
    (result,) = run(target, select=["before.times"]).results
    assert result.verdict is Verdict.EXPECTED_FAILURE
    assert "issue 3" in result.message


def test_expected_failure_that_passes_is_a_failure() -> None:
    target = Target(GoodProvisioner, expected_failures={"before.times": "issue 3"})
    report = run(target, select=["before.times"])
    assert report.results[0].verdict is Verdict.UNEXPECTED_PASS
    assert report.exit_status == 1


def test_what_is_not_claimed_is_skipped_with_the_reason() -> None:
    target = Target(GoodProvisioner, capabilities=())
    (result,) = run(target, select=["interrupt.sleep"]).results
    assert result.verdict is Verdict.SKIPPED
    assert "interrupt" in result.message


def test_blind_probe_has_what_needs_eyes_skipped() -> None:
    (result,) = run(Target(GoodProvisioner, probe=Probe()), select=["end.kill"]).results
    assert result.verdict is Verdict.SKIPPED
    assert "probe" in result.message


def test_json_has_every_result_and_nothing_of_the_configuration() -> None:
    report = run(Target(GoodProvisioner, config={"greeting": "a secret"}), select=QUICK)
    document = json.loads(report.to_json())
    assert [result["id"] for result in document["results"]] == [r.check.id for r in report.results]
    assert document["conforms"] is True
    assert "a secret" not in report.to_json()


def test_junit_counts_failures_and_skips() -> None:
    report = run(Target(TimeIsNone, capabilities=()), select=["before"])
    suite = ElementTree.fromstring(report.to_junit()).find("testsuite")
    assert suite is not None
    assert suite.get("failures") == "1"
    assert int(suite.get("skipped", "0")) == len(suite.findall("testcase/skipped")) > 0
    failed = [
        case.get("name") for case in suite.findall("testcase") if case.find("failure") is not None
    ]
    assert failed == ["before.times"]


def test_checks_are_selected_by_id_group_pattern_and_level() -> None:
    assert [check.id for check in select_checks(["before.poll"])] == ["before.poll"]
    assert {check.group for check in select_checks(["restart", "end.*"])} == {"restart", "end"}
    assert {check.level for check in select_checks(level="MUST")} == {Level.MUST}
    assert len(select_checks(level="SHOULD")) == len(select_checks())


@pytest.mark.parametrize(
    ("target", "select", "told"),
    [
        (Target(GoodProvisioner), ["restart.same_adress"], "restart.same_address"),
        (Target(GoodProvisioner, expected_failures={"before.pol": "x"}), None, "before.poll"),
        (Target(GoodProvisioner, expected_failures={"before.poll": " "}), None, "no reason"),
        (Target(GoodProvisioner, capabilities=["interupt"]), None, "interrupt"),
        (Target(GoodProvisioner, kernel="ipykernal"), None, "ipykernel"),
    ],
)
def test_target_that_makes_no_sense_is_refused_before_the_first_check(
    target: Target, select: list[str] | None, told: str
) -> None:
    with pytest.raises(ConfigurationError, match=told):
        run(target, select=select, on_start=lambda check: pytest.fail("a check was run"))


def test_provisioner_that_does_not_exist_is_refused_before_the_first_check() -> None:
    with pytest.raises(KernelProvisionerError, match="no-such-provisioner"):
        run(Target("no-such-provisioner"))


def test_provisioner_may_be_given_as_module_and_class() -> None:
    report = run(Target("good_provisioner:GoodProvisioner"), select=["launch.answers"])
    assert report.conforms


def test_claims_come_from_the_class_unless_the_target_has_its_own() -> None:
    assert Capability.PERSISTENCE in Target(GoodProvisioner).claims
    assert Target(GoodProvisioner, capabilities=["interrupt"]).claims == {Capability.INTERRUPT}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_provisioner_that_hangs_is_left_behind_and_its_position_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(bench, "CLOSE_LIMIT", 1.0)
    monkeypatch.setattr(runner, "GRACE", 1.0)
    report = run(Target(HangsInLaunch, time_limit=1.0), select=["launch.answers", "before.poll"])
    hung, after = (
        report.results
        if report.results[0].check.id == "launch.answers"
        else reversed(report.results)
    )
    assert hung.verdict is Verdict.FAILED
    assert "blocking in launch_kernel" in hung.message
    assert after.verdict is Verdict.PASSED


def test_run_leaves_the_environment_and_the_temporary_directory_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = dict(os.environ)
    run(Target(CurveKeysAreBytes), select=["launch.answers", "encryption.auto"])
    assert dict(os.environ) == before
    assert list(tmp_path.iterdir()) == []


def test_probe_sees_and_removes_what_carries_the_id_and_its_descendants() -> None:
    probe = ProcessProbe()
    identity = KernelIdentity("5f0c1f3e-test-of-the-probe", "unused")
    code = "import subprocess; print(flush=True); subprocess.run(['sleep', '60'], env={})"
    with subprocess.Popen(
        [sys.executable, "-c", code, identity.kernel_id], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert probe.is_running(identity)
        while len(left := probe.left(identity)) < 2:
            assert process.poll() is None, left
        probe.remove(identity)
    assert probe.left(identity) == []
    assert not probe.is_running(identity)


@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="needs Linux's table of connections")
def test_port_in_time_wait_counts_as_given_back_and_a_bound_one_does_not() -> None:
    address: dict[str, Any] = {"ip": "127.0.0.1"}
    with contextlib.ExitStack() as stack:
        for name in launch.PORTS:
            listener = stack.enter_context(socket.create_server((address["ip"], 0)))
            address[name] = listener.getsockname()[1]
            client = socket.create_connection((address["ip"], address[name]))
            accepted, _ = listener.accept()
            # Who closes first is in TIME_WAIT.
            accepted.close()
            client.close()
        assert set(launch._kept(address)) == set(launch.PORTS)
    assert not set(launch._takeable(address)) & set(launch.PORTS)
    assert launch._kept(address) == []
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind((address["ip"], address["hb_port"]))
        assert launch._kept(address) == ["hb_port"]


# -- pytest ---------------------------------------------------------------------------------------

_CLASSES = """
from broken_provisioners import TimeIsNone
from good_provisioner import GoodProvisioner
from kernel_provisioner_core.conformance import Level, ProvisionerConformance, Target

EXPECTED = {"before.times": "issue 3"}

class TestGood(ProvisionerConformance):
    target = Target(GoodProvisioner)

class TestBroken(ProvisionerConformance):
    target = Target(TimeIsNone)

class TestShould(ProvisionerConformance):
    target = Target("local-provisioner")

class TestStrictShould(ProvisionerConformance):
    target = Target("local-provisioner")
    fail_on = Level.SHOULD

class TestExpected(ProvisionerConformance):
    target = Target(TimeIsNone, expected_failures=EXPECTED)

class TestUnexpected(ProvisionerConformance):
    target = Target(GoodProvisioner, expected_failures=EXPECTED)

class TestOverridden(ProvisionerConformance):
    target = Target(GoodProvisioner)
    def test_before_poll(self): pass

class TestDeleted(ProvisionerConformance):
    target = Target(GoodProvisioner)
    test_before_poll = None

class TestAllOverridden(ProvisionerConformance):
    target = Target(GoodProvisioner)
    def _conform(self, check): pass

class TestWithoutTarget(ProvisionerConformance):
    pass

class TestUnknownId(ProvisionerConformance):
    target = Target(GoodProvisioner, expected_failures={"no.such": "x"})
"""


@pytest.fixture(scope="module")
def pytest_run(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], str]:
    """One run of pytest over the classes above: (class, test) to how it ended and what was told."""
    folder = tmp_path_factory.mktemp("face")
    (folder / "test_mine.py").write_text(_CLASSES)
    words = "before.poll or before.times or failure.leaves_no_file or whole"
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-k", words]
    subprocess.run(
        [*command, "--junitxml", "report.xml"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True,
        check=False,
    )
    ended = {}
    for case in ElementTree.parse(folder / "report.xml").iter("testcase"):
        told = next(iter(case), None)
        name = (case.get("classname", "").rpartition(".")[2], case.get("name", ""))
        ended[name] = "passed" if told is None else f"{told.tag}: {told.get('message')} {told.text}"
    return ended


_TIMES = "test_before_times[before.times]"
_NO_FILE = "test_failure_leaves_no_file[failure.leaves_no_file]"


def test_each_check_is_a_test_of_its_own_with_its_id_for_k(
    pytest_run: dict[tuple[str, str], str],
) -> None:
    tests = {test: told for (name, test), told in pytest_run.items() if name == "TestGood"}
    assert tests == {
        "test_suite_is_whole": "passed",
        "test_before_poll[before.poll]": "passed",
        _TIMES: "passed",
        _NO_FILE: "passed",
    }


@pytest.mark.parametrize(
    ("name", "test", "ended", "told"),
    [
        ("TestBroken", _TIMES, "failure", "MUST before.times: get_stable_start_time() returned"),
        ("TestBroken", _TIMES, "failure", "If it fails: return `recommended`"),
        ("TestShould", _NO_FILE, "skipped", "SHOULD failure.leaves_no_file: the key is still in"),
        ("TestStrictShould", _NO_FILE, "failure", "SHOULD failure.leaves_no_file"),
        ("TestExpected", _TIMES, "skipped", "issue 3"),
        ("TestUnexpected", _TIMES, "failure", "expected to fail: issue 3"),
        ("TestOverridden", "test_suite_is_whole", "failure", "test_before_poll: a check cannot be"),
        ("TestDeleted", "test_suite_is_whole", "failure", "test_before_poll: a check cannot be"),
        ("TestAllOverridden", "test_suite_is_whole", "failure", "_conform: a check cannot be"),
        ("TestWithoutTarget", "test_suite_is_whole", "failure", "needs: target"),
        ("TestUnknownId", "test_suite_is_whole", "failure", "no check is called 'no.such'"),
    ],
)
def test_pytest_tells(
    pytest_run: dict[tuple[str, str], str], name: str, test: str, ended: str, told: str
) -> None:
    assert pytest_run[name, test].startswith(ended)
    assert told in pytest_run[name, test]


# -- what is loaded -------------------------------------------------------------------------------


def test_plain_python_face_needs_no_pytest() -> None:
    code = (
        "import sys\n"
        "import kernel_provisioner_core.conformance as suite\n"
        "assert 'zmq' not in sys.modules and 'jupyter_client' not in sys.modules\n"
        "suite.run, suite.Target, suite.Report\n"
        "assert 'pytest' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_tiny_kernel_needs_only_pyzmq_and_stands_alone() -> None:
    tree = ast.parse(Path(kernel.__file__ or "").read_text())
    imported = {
        name
        for node in ast.walk(tree)
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or "."]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported - set(sys.stdlib_module_names) == {"zmq"}


def test_tiny_kernel_ends_itself_after_its_lifetime(tmp_path: Path) -> None:
    info = {name + "_port": 0 for name in ("shell", "iopub", "stdin", "control", "hb")}
    file = tmp_path / "kernel.json"
    file.write_text(json.dumps({**info, "ip": "127.0.0.1", "key": "k"}))
    script = kernel.__file__ or ""
    done = subprocess.run(
        [sys.executable, script, "-f", str(file), "--lifetime", "0.2"], timeout=20, check=False
    )
    assert done.returncode == 1
