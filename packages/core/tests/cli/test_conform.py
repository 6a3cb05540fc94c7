import json
from xml.etree import ElementTree

import pytest

ONE = ("--select", "launch.answers")


def test_the_checks_are_listed_with_their_sentence(run):
    done = run("conform", "--list")
    assert done.status == 0
    rows = {row[0]: row for row in done.rows}
    assert rows["launch.answers"][1] == "MUST"
    assert rows["launch.answers"][4]


def test_only_the_musts_are_listed_on_request(run):
    assert {row[1] for row in run("conform", "--list", "--level", "MUST").rows} == {"MUST"}


@pytest.mark.parametrize(
    "name", ["kernel-provisioner-tiny", "kernel_provisioner_tiny:TinyProvisioner"]
)
def test_each_check_is_reported_and_a_summary_follows(run, tiny, name):
    done = run("conform", name, "--select", "launch.answers", "--select", "launch.key")
    assert done.status == 0
    *checks, summary = done.out.splitlines()
    assert [line.split()[0] for line in checks] == ["passed", "passed"]
    assert [line.split()[-1] for line in checks] == ["launch.answers", "launch.key"]
    assert f"{name} conforms: 2 passed" in summary


def test_a_must_that_fails_ends_with_1(run, tiny):
    done = run("conform", "tiny-strange", *ONE)
    assert done.status == 1
    assert done.out.startswith("failed")
    assert "the moon is in the way" in done.out
    assert "does not conform" in done.out.splitlines()[-1]


def test_what_is_not_claimed_is_skipped_with_the_reason(run, tiny):
    done = run("conform", tiny, "--select", "interrupt")
    assert "does not claim interrupt" in done.out


def test_claims_can_be_made_on_the_command_line(run, tiny):
    chosen = ("conform", tiny, "--select", "before.unknown_option", "--json", "-")
    assert run(*chosen).json["counts"]["skipped"] == 1
    assert run(*chosen, "--claim", "rejects-unknown-options").json["counts"]["passed"] == 1


def test_reports_are_written(run, tiny, tmp_path):
    report, junit = tmp_path / "report.json", tmp_path / "report.xml"
    run("conform", tiny, *ONE, "--json", str(report), "--junit", str(junit))
    assert json.loads(report.read_text())["conforms"] is True
    assert ElementTree.parse(junit).find(".//testcase").get("name") == "launch.answers"


def test_the_report_alone_goes_to_stdout_with_a_dash(run, tiny):
    assert run("conform", tiny, *ONE, "--json", "-").json["counts"]["passed"] == 1


def test_options_of_the_provisioner_are_given_as_json(run, tiny):
    assert run("conform", tiny, *ONE, "--config", '{"image": "x"}').status == 0
    assert run("conform", tiny, *ONE, "--config", '{"imgae": "x"}').status == 1


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["kernel-provisioner-nowhere"], "pip install kernel-provisioner-nowhere"),
        (["kernel-provisioner-tiny", "--config", "{"], "--config is not JSON"),
        (["kernel-provisioner-tiny", "--config", "[]"], "--config is not a JSON object"),
        (["kernel-provisioner-tiny", "--select", "lunch"], "lunch"),
        (["kernel-provisioner-tiny", "--claim", "interupt"], "'interrupt'"),
        ([], "There is no provisioner to check"),
    ],
)
def test_what_makes_no_sense_is_an_error(run, tiny, argv, said):
    done = run("conform", *argv)
    assert done.status == 1
    assert said in done.err
    assert done.err.startswith("error: ")


def test_a_report_that_cannot_be_written_is_an_error(run, tiny, tmp_path):
    done = run("conform", tiny, *ONE, "--json", str(tmp_path / "nowhere" / "report.json"))
    assert done.status == 1
    assert "cannot be written" in done.err


def test_without_the_extra_the_error_says_what_to_install(run, tiny, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, *rest: None if name == "ipykernel" else find(name, *rest),
    )
    done = run("conform", tiny)
    assert done.status == 1
    assert 'pip install "kernel-provisioner-core[conformance]"' in done.err
