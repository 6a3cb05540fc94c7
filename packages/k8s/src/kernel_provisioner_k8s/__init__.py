"""Jupyter kernels in Kubernetes pods: any image that has a kernel, unmodified.

`KubernetesProvisioner` is what the entry point `kernel-provisioner-k8s` names.
"""

from kernel_provisioner_k8s.provisioner import KubernetesProvisioner

__all__ = ["KubernetesProvisioner"]
