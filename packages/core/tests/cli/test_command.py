import subprocess
import sys
import textwrap

import pytest

from kernel_provisioner_core.cli import main

COMMANDS = ("list", "show", "install", "run", "check", "conform", "ps", "logs", "stop", "reap")


def test_help_names_every_command_and_has_examples(capfd):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    text = capfd.readouterr().out
    assert all(f"\n    {command} " in text for command in COMMANDS)
    assert "jupyter provisioner run mine -c" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_has_examples(command, capfd):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"examples:\n  jupyter provisioner {command}" in capfd.readouterr().out


def test_version_is_the_distributions(capfd):
    from importlib.metadata import version

    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert (
        capfd.readouterr().out == f"kernel-provisioner-core {version('kernel-provisioner-core')}\n"
    )


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["lost"],
        ["install", "x"],
        ["install", "x", "--name", "y", "--set", "image"],
        ["install", "x", "--name", "y", "--user", "--sys-prefix"],
        ["run", "x", "-c", "1", "file.py"],
        ["run", "x", "-c", "1", "--timeout", "0"],
        ["run", "x", "-c", "1", "--timeout", "nan"],
        ["logs", "x", "--tail", "-1"],
    ],
)
def test_wrong_usage_ends_with_2(argv):
    with pytest.raises(SystemExit) as ended:
        main(argv)
    assert ended.value.code == 2


def test_jupyter_finds_the_script_as_a_subcommand():
    done = subprocess.run(
        [sys.executable, "-m", "jupyter", "provisioner", "--version"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.stdout.startswith("kernel-provisioner-core ")


@pytest.mark.parametrize("missing", ["jupyter_client", "rich"])
def test_without_the_extra_one_line_says_what_to_install(missing):
    code = f"""
        import importlib.abc, importlib.util, sys
        find = importlib.util.find_spec
        importlib.util.find_spec = lambda name, *rest: None if name == {missing!r} else find(name, *rest)
        from kernel_provisioner_core.cli import main
        sys.exit(main(["list"]))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert 'pip install "kernel-provisioner-core[cli]"' in done.stderr


def test_an_error_is_one_line_and_a_hint(run):
    done = run("check", "pyhton3")
    assert done.status == 1
    failed, error, hint = (done.out + done.err).splitlines()
    assert failed.startswith("failed  kernelspec")
    assert error.startswith("error: There is no kernelspec 'pyhton3'")
    assert hint.startswith("hint: Did you mean 'python3'?")


@pytest.mark.parametrize(
    "argv", [["--debug", "run", "lost", "-c", "1"], ["run", "lost", "-c", "1", "--debug"]]
)
def test_debug_shows_the_traceback_wherever_it_stands(run, argv):
    done = run(*argv)
    assert done.status == 1
    assert "Traceback (most recent call last)" in done.err


def test_without_debug_there_is_no_traceback(run):
    assert "Traceback" not in run("run", "lost", "-c", "1").err


def test_a_reader_that_goes_away_is_no_traceback(script):
    command = subprocess.Popen(
        [*script, "conform", "--list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    command.stdout.close()
    errors = command.stderr.read()
    command.stderr.close()
    command.wait(timeout=60)
    assert errors == ""


def test_importing_core_does_not_import_the_command_line():
    code = """
        import sys, kernel_provisioner_core
        unwanted = ("rich", "jupyter_client", "kernel_provisioner_core.cli")
        print([name for name in sys.modules if name.startswith(unwanted)])
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout == "[]\n"
