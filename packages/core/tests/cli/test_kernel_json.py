"""Malformed kernel.json: each a clear error, from the same place for `run` and `check`."""

import json
from pathlib import Path

import pytest

GOOD = {"argv": ["python", "{connection_file}"], "display_name": "x", "language": "python"}


def stanza(value):
    return {**GOOD, "metadata": {"kernel_provisioner": value}}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"argv": ["python",', "is truncated or no JSON"),
        ("", "is truncated or no JSON"),
        ("[]", "has to be an object"),
        ("{}", "argv has to be a list of texts"),
        (json.dumps({**GOOD, "argv": "python -m x"}), "argv has to be a list of texts"),
        (json.dumps({**GOOD, "argv": ["python", 3]}), "argv has to be a list of texts"),
        (json.dumps({**GOOD, "display_name": 7}), "display_name has to be text and is 7"),
        (json.dumps({**GOOD, "env": {"A": 1}}), "env has to be an object whose values are texts"),
        (json.dumps({**GOOD, "env": ["A"]}), "env has to be"),
        (
            json.dumps({**GOOD, "interrupt_mode": "shout"}),
            'interrupt_mode has to be "signal" or "message"',
        ),
        (json.dumps({**GOOD, "metadata": []}), "metadata has to be an object"),
        (json.dumps(stanza("docker")), "metadata.kernel_provisioner has to be an object"),
        (json.dumps(stanza({})), "provisioner_name has to be text and is missing"),
        (json.dumps(stanza({"provisioner_name": 3})), "provisioner_name has to be text and is 3"),
        (
            json.dumps(stanza({"provisioner_name": "local-provisioner", "config": "image"})),
            "config has to be an object",
        ),
        (
            json.dumps(stanza({"provisioner_name": "kernel-provisioner-nowhere"})),
            "pip install kernel-provisioner-nowhere",
        ),
    ],
)
@pytest.mark.parametrize("command", [("run", "mine", "-c", "1"), ("check", "mine")])
def test_malformed(run, kernelspec, command, text, said):
    kernelspec("mine", text)
    done = run(*command)
    assert done.status == 1
    assert said in done.err
    assert "Traceback" not in done.err
    assert done.err.startswith("error: ")
    assert "\nhint: " in done.err


def test_the_message_names_the_file(run, kernelspec):
    path = kernelspec("mine", "{")
    assert str(path) in run("run", "mine", "-c", "1").err


def test_not_utf_8(run, kernelspec):
    kernelspec("mine").write_bytes(b'{"display_name": "caf\xe9"}')
    assert "is not UTF-8 text" in run("run", "mine", "-c", "1").err


def test_unreadable(run, kernelspec, monkeypatch):
    path = kernelspec("mine")
    read_text = Path.read_text

    def refuse(self, *args, **kwargs):  # root may read everything
        if self == path:
            raise PermissionError(13, "Permission denied", str(path))
        return read_text(self, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", refuse)
    done = run("run", "mine", "-c", "1")
    assert f"error: {path} cannot be read: Permission denied." in done.err


def test_entries_that_nobody_knows_do_no_harm(run, kernelspec):
    kernelspec("mine", json.dumps({**GOOD, "from_the_future": 1, "argv": ["no-such-command"]}))
    assert "no-such-command" in run("run", "mine", "-c", "1").err


def test_unknown_options_are_told_with_the_nearest(run, tiny, provisioned):
    provisioned("mine", tiny, imgae="x")
    done = run("run", "mine", "-c", "1")
    assert done.status == 1
    assert "Did you mean 'image'?" in done.err


def test_two_distributions_that_claim_the_provisioner_are_told(
    run, provisioned, install_distribution
):
    install_distribution("first-one", "1.0", {"twice": "first:P"}, first="class P: ...")
    install_distribution("second-one", "2.0", {"twice": "second:P"}, second="class P: ...")
    provisioned("mine", "twice")
    done = run("run", "mine", "-c", "1")
    assert done.status == 1
    assert "first-one 1.0" in done.err
    assert "second-one 2.0" in done.err
