"""What is run on the host, compared as a whole or run by a real shell."""

import shlex
import subprocess

import pytest

from kernel_provisioner_core.errors import ConfigurationError
from kernel_provisioner_ssh import commands

EVIL = "a 'b' \"c\" $(touch evil) `touch evil`; touch evil\n# d \\"

LAUNCH = commands.Launch(
    name="kernel-1",
    owner="owner-1",
    argv=("python3", "-m", "my kernel", "-f", "{connection_file}", "--config={connection_file}.x"),
    connection_file="kernel-1.json",
    connection={"ip": "127.0.0.1", "key": "secret"},
    env={"A": "1", "B": "it's"},
    cwd="~/my project",
    setup=("module load x",),
)


def run(script, **options):
    return subprocess.run(
        ["/bin/sh"], input=script, capture_output=True, text=True, check=False, **options
    )


def test_the_start_of_a_kernel():
    assert commands.start_script(LAUNCH) == (
        "connection_file=$PWD/kernel-1.json\n"
        "export A=1\n"
        "export B='it'\"'\"'s'\n"
        "cd -- \"$HOME\"/'my project' || "
        "{ printf %s 'the working directory ~/my project cannot be entered\n' >&2; exit 126; }\n"
        "eval 'module load x' || { printf %s 'setup failed: module load x\n' >&2; exit 125; }\n"
        'set -- python3 -m \'my kernel\' -f "$connection_file" --config="$connection_file".x\n'
        'if ! command -v -- "$1" >/dev/null; then\n'
        '  printf "%s: command not found\\n" "$1" >&2\n'
        "  exit 127\n"
        "fi\n"
        'exec "$@"\n'
    )


def test_the_shell_of_a_kernel():
    script = commands.kernel_script(LAUNCH)
    assert script.endswith(
        'identify "$$" && echo "$$ $started $group" >pid.tmp && mv -f pid.tmp pid\n'
        "exec /bin/sh ./start.sh\n"
    )


def test_a_signal_to_the_group_and_one_to_the_process():
    assert 'kill -s INT -- "-$own"' in commands.signal_script("/d", 2, "m")
    assert 'kill -s KILL "$pid"' in commands.signal_script("/d", 9, "m")
    with pytest.raises(ConfigurationError, match="4711"):
        commands.signal_script("/d", 4711, "m")


def test_the_key_is_in_a_here_document_only():
    script = commands.launch_script(LAUNCH, "m")
    (line,) = [line for line in script.splitlines() if "secret" in line]
    assert line == '  "key": "secret",'


@pytest.mark.parametrize("shell", ["dash", "bash"])
@pytest.mark.parametrize(
    "kind", ["launch", "watch", "signal", "remove", "logs", "attach", "find", "end"]
)
def test_each_script_is_one_to_a_shell(kind, shell):
    script = {
        "launch": commands.launch_script(LAUNCH, "m"),
        "watch": commands.watch_script("owner-1", "s", "m"),
        "signal": commands.signal_script(EVIL, 15, "m"),
        "remove": commands.remove_script("kernel-1", "m"),
        "logs": commands.logs_script(EVIL, 100, "m"),
        "attach": commands.attach_script(EVIL, "owner-1", "m"),
        "find": commands.find_kernelspec_script(EVIL, {"A": EVIL}, [EVIL], True, "m"),
        "end": commands.session_end_script("1", "2", "m"),
    }[kind]
    checked = subprocess.run(
        [shell, "-n"], input=script, capture_output=True, text=True, check=False
    )
    assert (checked.returncode, checked.stderr) == (0, "")


def test_values_arrive_as_they_are(tmp_path):
    launch = commands.Launch(
        name="k",
        owner="o",
        argv=("printf", "[%s]", EVIL, "{connection_file}", EVIL),
        connection_file="k.json",
        connection={},
        env={"A": EVIL},
        cwd=str(tmp_path),
        setup=('printf "<%s>" "$A"',),
    )
    done = run(commands.start_script(launch), cwd=tmp_path)
    assert done.stdout == f"<{EVIL}>[{EVIL}][{tmp_path}/k.json][{EVIL}]"
    assert not (tmp_path / "evil").exists()


def test_a_variable_that_no_shell_can_have_is_refused():
    launch = commands.Launch("k", "o", ("x",), "f", {}, env={"A;touch evil": "1"})
    with pytest.raises(ConfigurationError, match="A;touch evil"):
        commands.start_script(launch)


@pytest.mark.parametrize(
    ("kernel_id", "expected"),
    [("ab-1", "ab-1-t"), ("../../x y;$(z)", "_.._x_y___z_-t"), ("", "kernel-t"), ("-x", "x-t")],
)
def test_the_name_of_a_directory_is_safe(kernel_id, expected):
    name = commands.directory_name(kernel_id, "t")
    assert name == expected
    assert shlex.quote(name) == name


@pytest.mark.parametrize(("lease", "step"), [(1, 1), (4, 1), (20, 4), (300, 15)])
def test_a_lease_is_looked_at_several_times(lease, step):
    assert commands.renewal_step(lease) == step
