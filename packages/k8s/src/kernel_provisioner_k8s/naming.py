"""The names and labels of what is made in a cluster; nothing here needs the Kubernetes client."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping

__all__ = [
    "CONNECTION_FOLDER",
    "KERNEL_CONTAINER",
    "MANAGED_BY",
    "connection_file_name",
    "label_values",
    "pod_name",
]

KERNEL_CONTAINER = "kernel"
"""The name of the container that the kernel runs in; `pod_patch` and `pod_template` find it by this."""

CONNECTION_FOLDER = "/run/kernel-provisioner"
"""Where the Secret with the connection file is mounted."""

MANAGED_BY = {"app.kubernetes.io/managed-by": "kernel-provisioner-k8s"}
"""The label of all that this package makes."""


def connection_file_name(kernel_id: str) -> str:
    """Return the name of a kernel's connection file; it is a key of a Secret, so few characters are allowed."""
    return f"kernel-{_slug(kernel_id, 200)}.json"


def pod_name(kernel_id: str, mark: str) -> str:
    """Return a name for a pod.

    Args:
        kernel_id: The kernel's id, of any length and characters.
        mark: Tells the pods of a kernel that is restarted apart.
    """
    return "-".join(part for part in ("kernel", _slug(kernel_id, 42), mark) if part)


def label_values(labels: Mapping[str, str]) -> dict[str, str]:
    """Return labels with values that are valid ones."""
    return {name: _label_value(value) for name, value in labels.items()}


def _label_value(value: str) -> str:
    if not value or re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", value):
        return value
    return _slug(value, 63)


def _slug(text: str, limit: int) -> str:
    """Return a text in lower-case letters, digits and dashes, of at most that length; different ones stay so."""
    kept = re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")
    if kept == text and len(kept) <= limit:
        return kept
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:8]
    return f"{kept[: limit - 9].strip('-')}-{digest}".strip("-")
