import pytest

STAGES = [
    "kernelspec",
    "provisioner",
    "options",
    "launch",
    "answer",
    "execute",
    "interrupt",
    "shutdown",
    "remains",
]


def failed(done):
    """Return the one stage that failed; all before it went well."""
    *well, last = done.json
    assert done.status == 1
    assert [result["verdict"] for result in well] == ["ok"] * len(well)
    assert last["verdict"] == "failed"
    assert [result["stage"] for result in done.json] == STAGES[: len(done.json)]
    return last


@pytest.mark.parametrize("kernel", ["mine", "python3"])
def test_every_stage_of_a_good_kernel_is_well_and_timed(run, tiny, provisioned, kernel):
    provisioned("mine", tiny, image="x")
    done = run("check", kernel, "--json")
    assert done.status == 0
    assert [(r["stage"], r["verdict"]) for r in done.json] == [(stage, "ok") for stage in STAGES]
    answer = next(result for result in done.json if result["stage"] == "answer")
    assert 0.05 < answer["seconds"] < 60
    assert "python" in answer["detail"]


def test_the_stages_are_printed_one_a_line(run, tiny, provisioned):
    provisioned("mine", tiny)
    done = run("check", "mine")
    assert done.status == 0
    assert [line.split()[:2] for line in done.out.splitlines()] == [
        ["ok", stage] for stage in STAGES
    ]
    assert done.err == ""


def test_a_missing_kernelspec_is_the_first_stage(run):
    assert failed(run("check", "nowhere", "--json"))["stage"] == "kernelspec"


def test_a_missing_provisioner_is_the_second_stage(run, provisioned):
    provisioned("mine", "kernel-provisioner-nowhere")
    last = failed(run("check", "mine", "--json"))
    assert last["stage"] == "provisioner"
    assert "pip install kernel-provisioner-nowhere" in last["hint"]


def test_a_wrong_option_is_the_third_stage(run, tiny, provisioned):
    provisioned("mine", tiny, launch_timeout="soon")
    last = failed(run("check", "mine", "--json"))
    assert last["stage"] == "options"
    assert "launch_timeout" in last["detail"]


def test_a_failed_launch_is_told_with_a_cure(run, provisioned):
    provisioned("mine", "local-provisioner", argv=["no-such-command", "{connection_file}"])
    last = failed(run("check", "mine", "--json"))
    assert last["stage"] == "launch"
    assert "no-such-command" in last["detail"]
    assert "argv" in last["hint"]


@pytest.mark.parametrize("provisioner", ["kernel-provisioner-tiny", "local-provisioner"])
def test_a_kernel_that_dies_at_its_start_shows_its_last_output(run, tiny, provisioned, provisioner):
    argv = ["python", "-c", "import sys; sys.exit('no licence for {connection_file}')"]
    provisioned("mine", provisioner, argv=argv)
    last = failed(run("check", "mine", "--json"))
    assert last["stage"] == "answer"
    assert "exited with code 1" in last["detail"]
    assert last["output"].startswith("no licence for ")
    assert "  no licence for " in run("check", "mine").err


def test_an_interrupt_that_does_not_arrive_is_told(run, provisioned, tiny, monkeypatch):
    monkeypatch.setattr("kernel_provisioner_core.cli.check._INTERRUPT_LIMIT", 0.5)
    provisioned("mine", "tiny-deaf")
    last = failed(run("check", "mine", "--json"))
    assert last["stage"] == "interrupt"
    assert '"interrupt_mode": "message"' in last["hint"]


def test_what_a_shutdown_leaves_behind_is_told(run, tiny, provisioned, jupyter):
    provisioned("mine", "tiny-forgetful")
    last = failed(run("check", "mine", "--json"))
    assert last["stage"] == "remains"
    assert "the record of the kernel" in last["detail"]


def test_after_a_failure_the_kernel_is_shut_down(run, tiny, provisioned, jupyter, monkeypatch):
    monkeypatch.setattr("kernel_provisioner_core.cli.check._INTERRUPT_LIMIT", 0.5)
    provisioned("mine", "tiny-deaf")
    failed(run("check", "mine", "--json"))
    assert [path for path in (jupyter.parent / "runtime").rglob("*") if path.is_file()] == []
