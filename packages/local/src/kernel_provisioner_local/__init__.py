"""Jupyter kernels as child processes of the server."""

from kernel_provisioner_local.provisioner import LocalProvisioner

__all__ = ["LocalProvisioner"]
