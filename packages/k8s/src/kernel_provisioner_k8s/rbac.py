"""Prints the role that the provisioner needs: `python -m kernel_provisioner_k8s.rbac | kubectl apply -f -`."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

__all__ = ["main", "manifests"]


def manifests(namespace: str = "default") -> str:
    """Return ServiceAccount, Role and RoleBinding for a namespace, in YAML.

    Args:
        namespace: The namespace of the kernels, which the service account is made in as well.

    Raises:
        ValueError: That is no name of a namespace.
    """
    if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", namespace):
        raise ValueError(f"{namespace!r} is no name of a namespace")
    text = Path(__file__).with_name("rbac.yaml").read_text(encoding="utf-8")
    return text.replace("namespace: default", f"namespace: {namespace}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the manifests; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--namespace", default="default", help="the namespace of the kernels")
    try:
        sys.stdout.write(manifests(parser.parse_args(arguments).namespace))
    except ValueError as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
