"""What a pod's description says of the kernel in it: whether it runs, how it ended, what keeps it from starting.

Pure functions of the API's JSON.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kernel_provisioner_core.exits import KernelExit
from kernel_provisioner_k8s.naming import KERNEL_CONTAINER

__all__ = ["Trouble", "address", "has_started", "is_unreachable", "kernel_exit", "stage", "trouble"]

# Reasons of a waiting container that waiting does not mend, as far as a user at a notebook is concerned.
_FATAL = {
    "CreateContainerConfigError": "A Secret or ConfigMap that it names is missing, or its user is not allowed.",
    "CreateContainerError": "",
    "RunContainerError": "",
    "ErrImageNeverPull": "Load the image on the node, or choose another `pull_policy`.",
    "ErrImagePull": "Is the name right, and may the cluster pull it (`pull_secrets`)?",
    "ImagePullBackOff": "Is the name right, and may the cluster pull it (`pull_secrets`)?",
    "ImageInspectError": "",
    "InvalidImageName": "Correct the option `image`.",
    "RegistryUnavailable": "Is the registry up, and can the nodes reach it?",
}
# What a runtime calls a command that it could not start.
_NOT_STARTED = ("ContainerCannotRun", "StartError")


@dataclass(frozen=True)
class Trouble:
    """What keeps a pod from starting.

    Args:
        reason: Kubernetes' own word for it.
        message: Kubernetes' own sentence.
        hint: What can be done; may be empty.
    """

    reason: str
    message: str
    hint: str = ""


def has_started(pod: Mapping[str, Any]) -> bool:
    """Return whether the kernel's container runs, or has run."""
    state = _kernel_state(pod)
    return "running" in state or "terminated" in state


def kernel_exit(pod: Mapping[str, Any]) -> KernelExit | None:
    """Return how the kernel ended; None while it runs, or has not begun, or nobody knows."""
    status = pod.get("status") or {}
    terminated = _kernel_state(pod).get("terminated")
    if terminated is not None:
        return _exit_of(terminated, status)
    if status.get("phase") in ("Failed", "Succeeded"):
        # evicted before it ran, past its deadline, refused by the node
        return KernelExit(None, _sentence(status) or "the pod has ended")
    return None


def command_missing(pod: Mapping[str, Any]) -> str:
    """Return the runtime's words if it could not start the kernel's command; else an empty text."""
    terminated = _kernel_state(pod).get("terminated") or {}
    return str(terminated.get("message", "")) if terminated.get("reason") in _NOT_STARTED else ""


def trouble(pod: Mapping[str, Any]) -> Trouble | None:
    """Return what keeps a pod from starting, if there is something."""
    status = pod.get("status") or {}
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(kind) or ():
            found = _container_trouble(container, is_init=kind.startswith("init"))
            if found is not None:
                return found
    for condition in status.get("conditions") or ():
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False":
            return Trouble(
                str(condition.get("reason", "")),
                str(condition.get("message", "")),
                "Ask for less in `resources`, or loosen `node_selector`, `affinity` or `tolerations`; in a "
                "cluster that adds nodes, raise `unschedulable_timeout`.",
            )
    return None


def stage(pod: Mapping[str, Any]) -> str:
    """Return what a pod on its way to running is doing, in a word or two."""
    status = pod.get("status") or {}
    conditions = {c.get("type"): c for c in status.get("conditions") or ()}
    scheduled = conditions.get("PodScheduled") or {}
    if scheduled.get("status") != "True":
        return "waiting for a node"
    if has_started(pod):
        return "started"
    node = (pod.get("spec") or {}).get("nodeName", "")
    for container in status.get("initContainerStatuses") or ():
        if "running" in (container.get("state") or {}):
            return f"running the init container {container.get('name')}"
    return f"scheduled on {node}" if node else "scheduled"


def address(pod: Mapping[str, Any]) -> str:
    """Return the pod's IP address; empty while it has none."""
    return str((pod.get("status") or {}).get("podIP") or "")


def is_unreachable(pod: Mapping[str, Any]) -> bool:
    """Return whether the pod's node has not been heard of, so that nobody knows about the kernel.

    The node controller then takes the pod's readiness back, while the containers' own stays as the node last told it.
    """
    status = pod.get("status") or {}
    if (
        status.get("reason") in ("NodeLost", "NodeStatusUnknown")
        or status.get("phase") == "Unknown"
    ):
        return True
    conditions = {c.get("type"): c.get("status") for c in status.get("conditions") or ()}
    return (
        conditions.get("Ready") in ("False", "Unknown")
        and conditions.get("ContainersReady") == "True"
        and "running" in _kernel_state(pod)
        and not (pod.get("spec") or {}).get("readinessGates")
    )


def _kernel_state(pod: Mapping[str, Any]) -> Mapping[str, Any]:
    for container in (pod.get("status") or {}).get("containerStatuses") or ():
        if container.get("name") == KERNEL_CONTAINER:
            return container.get("state") or {}
    return {}


def _exit_of(terminated: Mapping[str, Any], status: Mapping[str, Any]) -> KernelExit:
    code = terminated.get("exitCode")
    reason = str(terminated.get("reason") or "")
    causes = [
        _sentence(status),
        "" if reason in ("Error", "Completed") else reason,
        str(terminated.get("message") or "") if reason in _NOT_STARTED else "",
    ]
    cause = ", ".join(dict.fromkeys(text for text in causes if text))
    if reason == "ContainerStatusUnknown":
        return KernelExit(None, cause)
    if isinstance(code, int) and code > 128 and _is_signal(code - 128):
        code = 128 - code
    return KernelExit(code, cause)


def _sentence(status: Mapping[str, Any]) -> str:
    """Return the reason that the pod as a whole ended for, such as an eviction."""
    reason, message = str(status.get("reason") or ""), str(status.get("message") or "")
    return f"{reason}: {message}" if reason and message else reason or message


def _is_signal(number: int) -> bool:
    try:
        signal.Signals(number)
    except ValueError:
        return False
    return True


def _container_trouble(container: Mapping[str, Any], *, is_init: bool) -> Trouble | None:
    name = container.get("name")
    state = container.get("state") or {}
    waiting = state.get("waiting") or {}
    reason = str(waiting.get("reason") or "")
    if reason in _FATAL:
        message = str(waiting.get("message") or "")
        return Trouble(reason, f"{message} (container {name!r})", _FATAL[reason])
    terminated = state.get("terminated")
    if is_init and terminated is not None and terminated.get("exitCode"):
        message = f"the init container {name!r} ended with code {terminated['exitCode']}"
        return Trouble(
            str(terminated.get("reason") or "Error"),
            message,
            f"`kubectl logs POD -c {name}` has its output.",
        )
    return None
