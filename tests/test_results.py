"""The closing lines of `python3 dev test`: added up over environments, and what must not be missing."""

import json

import pytest

import results

REPORT = """<testsuites><testsuite time="1.5">
<testcase name="a"/><testcase name="b"/>
<testcase name="c"><skipped type="pytest.skip" message="needs gadget: Plug one in."/></testcase>
<testcase name="d"><skipped type="pytest.xfail" message="later"/></testcase>
</testsuite></testsuites>"""
FAILED = REPORT.replace("</testsuite>", '<testcase name="e"><failure/></testcase></testsuite>')


@pytest.fixture
def folder(tmp_path):
    """Return what a run leaves where py310 is not on the machine."""
    verdict = {"success": True, "exit_code": 0}
    environments = {
        "lint": {"result": verdict},
        "py310-core": {"result": verdict | {"skipped": True}},
        "py313-core": {"result": verdict},
    }
    (tmp_path / "tox.json").write_text(json.dumps({"testenvs": environments}))
    (tmp_path / "py313-core.xml").write_text(REPORT)
    return tmp_path


def test_the_last_line_adds_up_all_tests(folder, capsys):
    assert results.report(set(), folder) == 0
    assert capsys.readouterr().out.splitlines()[-1].strip("= ") == (
        "2 passed, 1 skipped, 1 xfailed in 1.50s"
    )


def test_what_was_skipped_is_named_with_its_reason(folder, capsys):
    results.report(set(), folder)
    printed = capsys.readouterr().out
    assert "skipped in py313-core: 1 x needs gadget: Plug one in." in printed
    assert "skipped for want of an interpreter: py310-core" in printed


def test_a_failed_test_is_a_failure(folder, capsys):
    (folder / "py313-core.xml").write_text(FAILED)
    assert results.report(set(), folder) == 1
    assert "1 failed, 2 passed" in capsys.readouterr().out


def test_no_tests_at_all_are_a_failure_only_where_tests_were_asked_for(folder):
    (folder / "py313-core.xml").unlink()
    assert results.report(set(), folder) == 0
    assert results.report({"core"}, folder) == 1


@pytest.mark.parametrize("required", [set(), {"py313"}, {"core"}, {"core", "py313"}])
def test_what_is_required_and_ran_is_no_failure(folder, required):
    assert results.report(required, folder) == 0


def test_a_required_interpreter_that_is_missing_is_a_failure(folder, capsys):
    assert results.report({"py310"}, folder) == 1
    assert "REQUIRED: py310: the interpreter is missing for py310-core." in capsys.readouterr().out


def test_a_required_word_that_means_nothing_is_a_failure(folder, capsys):
    assert results.report({"py319"}, folder) == 1
    assert "REQUIRED: py319" in capsys.readouterr().out
