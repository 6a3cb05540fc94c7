"""Where the cluster is: the kubeconfig that counts, and whether this process runs in the cluster itself."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["SERVICE_ACCOUNT", "kubeconfig_path", "runs_inside"]

SERVICE_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod finds the credentials of its service account."""


def kubeconfig_path(kubeconfig: str) -> str:
    """Return the path of the kubeconfig, or several with colons between, as kubectl finds it; it need not exist."""
    return os.path.expanduser(kubeconfig or os.environ.get("KUBECONFIG", "") or "~/.kube/config")


def runs_inside(kubeconfig: str, context: str) -> bool:
    """Return whether the cluster is the one that this process runs in: nothing else is said, and a token is there."""
    if kubeconfig or context:
        return False
    files = kubeconfig_path("").split(os.pathsep)
    return not any(map(os.path.exists, files)) and (SERVICE_ACCOUNT / "token").exists()
