"""Jupyter kernels in containers: any image that has a kernel, unmodified, on any Docker-compatible engine."""

from kernel_provisioner_docker.provisioner import DockerProvisioner

__all__ = ["DockerProvisioner"]
