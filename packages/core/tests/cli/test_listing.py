import json
import sys

import pytest


def test_list_shows_name_version_distribution_and_that_it_is_usable(run, tiny):
    done = run("list")
    assert done.status == 0
    assert [
        tiny,
        "0.3",
        "kernel-provisioner-tiny",
        "kernel_provisioner_tiny:TinyProvisioner",
        "yes",
    ] in done.rows


def test_list_marks_the_provisioner_that_jupyter_takes_by_default(run, tiny, monkeypatch):
    monkeypatch.setenv("JUPYTER_DEFAULT_PROVISIONER_NAME", tiny)
    assert [row["name"] for row in run("list", "--json").json if row["default"]] == [tiny]


def test_list_says_that_two_distributions_claim_one_name(run, install_distribution):
    install_distribution(
        "first-one", "1.0", {"twice": "first:Provisioner"}, first="class Provisioner: ..."
    )
    install_distribution(
        "second-one", "2.0", {"twice": "second:Provisioner"}, second="class Provisioner: ..."
    )
    row = next(row for row in run("list", "--json").json if row["name"] == "twice")
    assert not row["usable"]
    assert "first-one 1.0" in row["reason"]
    assert "second-one 2.0" in row["reason"]
    assert "Uninstall all but one" in row["reason"]


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("import a_module_that_is_not_there", "No module named 'a_module_that_is_not_there'"),
        ("raise RuntimeError('not on a Sunday')", "not on a Sunday"),
        ("def", "SyntaxError"),
        ("Provisioner = 3", "is not a kernel provisioner"),
        ("", "Provisioner"),
    ],
)
def test_list_shows_a_broken_provisioner_and_why(run, install_distribution, source, said):
    install_distribution(
        "broken-one", "1.0", {"broken": "broken_one:Provisioner"}, broken_one=source
    )
    done = run("list")
    sys.modules.pop("broken_one", None)
    assert done.status == 0
    usable = next(row for row in done.rows if row[0] == "broken")[-1]
    assert usable.startswith("no: ")
    assert said in usable


def test_show_prints_type_unit_default_help_and_example(run, tiny):
    rows = {row[0]: row[1:] for row in run("show", tiny).rows}
    assert rows["launch_timeout"] == ["number", "seconds", "30.0", "How long.", ""]
    assert rows["image"] == ["string", "", '""', "The image.", '"quay.io/x:3.11"']
    assert rows["resources"][0] == "object with cpu, memory"
    assert rows["labels"][0] == "object of string"
    assert rows["pull_policy"][0] == '"always" or "never"'
    assert rows["mounts"][0] == "array of object"


def test_show_knows_classes_by_module_and_name(run, tiny):
    assert run("show", "kernel_provisioner_tiny:TinyProvisioner").out == run("show", tiny).out


def test_show_works_on_a_provisioner_that_is_not_ours(run):
    done = run("show", "local-provisioner")
    assert done.status == 0
    assert done.out.startswith("OPTION\t")


def test_show_prints_the_json_schema(run, tiny):
    schema = run("show", tiny, "--json-schema").json
    assert schema["properties"]["launch_timeout"]["type"] == "number"
    assert schema["additionalProperties"] is False


def test_show_as_json_is_the_same_as_data(run, tiny):
    options = {option["name"]: option for option in run("show", tiny, "--json").json}
    assert options["launch_timeout"]["unit"] == "seconds"


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("kernel-provisioner-nowhere", "`pip install kernel-provisioner-nowhere`"),
        ("somebodys-provisioner", "Install the package that provides it"),
        ("json:JSONDecoder", "is not a kernel provisioner"),
        ("json:dumps", "is not a kernel provisioner"),
        ("json:nothing", "has no attribute 'nothing'"),
        ("no_such_module:X", "No module named 'no_such_module'"),
    ],
)
def test_show_of_what_is_no_provisioner_says_so(run, name, said):
    done = run("show", name)
    assert done.status == 1
    assert done.out == ""
    assert said in done.err
    assert done.err.count("\n") == 2


def test_tables_off_a_terminal_have_no_box_characters(run, tiny):
    text = run("list").out + run("show", tiny).out
    assert text.isascii()
    assert "|" not in text


def test_json_is_json_also_where_a_default_is_not(run, install_distribution):
    source = """
import traitlets
from traitlets.config import LoggingConfigurable
class Odd(LoggingConfigurable):
    where = traitlets.Any({1, 2}, config=True)
    def launch_kernel(self): ...
"""
    install_distribution("odd", "1.0", {"odd": "odd_one:Odd"}, odd_one=source)
    assert json.loads(run("show", "odd", "--json").out)[0]["name"] == "where"
    assert json.loads(run("show", "odd", "--json-schema").out)
    assert run("show", "odd").rows[0][0] == "where"
