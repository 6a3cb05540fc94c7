"""Jupyter kernels on other hosts, through ssh."""

from kernel_provisioner_ssh.provisioner import SSHProvisioner

__all__ = ["SSHProvisioner"]
