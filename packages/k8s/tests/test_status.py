"""What a pod's description is taken to mean."""

import pytest

from kernel_provisioner_core.exits import KernelExit
from kernel_provisioner_k8s import status


def pod(state=None, *, phase="Running", conditions=(), spec=None, init=(), **more):
    containers = [{"name": "sidecar", "state": {"running": {}}}]
    if state is not None:
        containers.append({"name": "kernel", "state": state})
    return {
        "spec": spec or {},
        "status": {
            "phase": phase,
            "conditions": [{"type": t, "status": s, **rest} for t, s, rest in conditions],
            "containerStatuses": containers,
            "initContainerStatuses": list(init),
            **more,
        },
    }


@pytest.mark.parametrize(
    ("terminated", "ended"),
    [
        ({"exitCode": 0, "reason": "Completed"}, KernelExit(0)),
        ({"exitCode": 3, "reason": "Error"}, KernelExit(3)),
        ({"exitCode": 137, "reason": "OOMKilled"}, KernelExit(-9, "OOMKilled")),
        ({"exitCode": 143, "reason": "Error"}, KernelExit(-15)),
        ({"exitCode": 255, "reason": "Error"}, KernelExit(255)),
        (
            {"exitCode": 137, "reason": "ContainerStatusUnknown"},
            KernelExit(None, "ContainerStatusUnknown"),
        ),
        (
            {"exitCode": 128, "reason": "StartError", "message": "no such program"},
            KernelExit(128, "StartError, no such program"),
        ),
    ],
)
def test_exit_code_and_reason_are_as_they_were(terminated, ended):
    assert status.kernel_exit(pod({"terminated": terminated})) == ended


@pytest.mark.parametrize(
    "state", [None, {}, {"waiting": {"reason": "ContainerCreating"}}, {"running": {}}]
)
def test_a_kernel_without_an_end_has_not_ended(state):
    assert status.kernel_exit(pod(state)) is None


def test_an_eviction_is_named_with_and_without_a_container():
    message = {"reason": "Evicted", "message": "The node was low on resource: memory."}
    ended = status.kernel_exit(pod(phase="Failed", **message))
    assert ended == KernelExit(None, "Evicted: The node was low on resource: memory.")
    ended = status.kernel_exit(pod({"terminated": {"exitCode": 137}}, phase="Failed", **message))
    assert ended == KernelExit(-9, "Evicted: The node was low on resource: memory.")


def test_a_node_that_is_not_heard_of_makes_its_pods_unknown_and_not_dead():
    silent = [("Ready", "False", {}), ("ContainersReady", "True", {})]
    lost = pod({"running": {}}, conditions=silent)
    assert status.is_unreachable(lost)
    assert status.kernel_exit(lost) is None
    assert status.is_unreachable(pod({"running": {}}, reason="NodeLost"))


@pytest.mark.parametrize(
    "conditions",
    [
        [("Ready", "True", {}), ("ContainersReady", "True", {})],
        [("Ready", "False", {}), ("ContainersReady", "False", {})],
        [],
    ],
)
def test_a_node_that_is_heard_of_is_reachable(conditions):
    assert not status.is_unreachable(pod({"running": {}}, conditions=conditions))


def test_a_pod_that_waits_for_its_readiness_gates_is_reachable():
    conditions = [("Ready", "False", {}), ("ContainersReady", "True", {})]
    spec = {"readinessGates": [{"conditionType": "x"}]}
    assert not status.is_unreachable(pod({"running": {}}, conditions=conditions, spec=spec))


def test_trouble_is_found_in_any_container_and_in_the_schedulers_words():
    waiting = {"waiting": {"reason": "ErrImagePull", "message": "not found"}}
    found = status.trouble(pod(waiting))
    assert (found.reason, found.message) == ("ErrImagePull", "not found (container 'kernel')")
    unscheduled = pod(
        phase="Pending",
        conditions=[("PodScheduled", "False", {"reason": "Unschedulable", "message": "0/1 nodes"})],
    )
    assert (status.trouble(unscheduled).reason, status.trouble(unscheduled).message) == (
        "Unschedulable",
        "0/1 nodes",
    )
    init = {"name": "i", "state": {"terminated": {"exitCode": 2, "reason": "Error"}}}
    assert "'i' ended with code 2" in status.trouble(pod(init=[init])).message


@pytest.mark.parametrize("reason", ["ContainerCreating", "PodInitializing", ""])
def test_a_pod_on_its_way_is_in_no_trouble(reason):
    assert status.trouble(pod({"waiting": {"reason": reason}})) is None
