"""CurveZMQ between clients and kernel: whether it is wanted, whether it can be had, and the keys.

The rules are jupyter_client's (its documentation, "Security", since 8.9): the manager's `transport_encryption` is
`disabled`, `auto` (if the kernel can) or `required`; the kernelspec says in `metadata.supported_encryption` what the
kernel can, as text or as a list. jupyter_client mints keys only in its own local provisioner; here it is
done for every backend.
"""

from __future__ import annotations

from typing import Any

from kernel_provisioner_core.errors import ConfigurationError

__all__ = ["curve_keypair", "curve_wanted", "kernel_supports_curve"]

_POLICIES = ("disabled", "auto", "required")


def curve_wanted(policy: object, kernel_spec: Any, transport: str) -> bool:
    """Return whether a kernel is to encrypt.

    Args:
        policy: `disabled`, `auto` or `required`, in any case of letters.
        kernel_spec: The kernelspec, or None.
        transport: `tcp` or `ipc`.

    Raises:
        ConfigurationError: The policy is unknown, or `required` and cannot be kept.
    """
    policy = str(policy).lower()
    if policy == "disabled":
        return False
    if policy not in _POLICIES:
        raise ConfigurationError(
            f"transport_encryption is {policy!r}.",
            hint=f"It has to be one of {', '.join(_POLICIES)}.",
        )
    possible = kernel_supports_curve(kernel_spec) and transport in ("tcp", "ipc")
    if policy == "required" and not possible:
        raise ConfigurationError(
            "transport_encryption is 'required', but the kernelspec does not say that the kernel can encrypt.",
            hint='If it can (ipykernel from 7.3 on), put "supported_encryption": ["curve"] under "metadata" '
            "in kernel.json.",
        )
    return possible


def kernel_supports_curve(kernel_spec: Any) -> bool:
    """Return whether a kernelspec's metadata declares CurveZMQ."""
    declared = (getattr(kernel_spec, "metadata", None) or {}).get("supported_encryption") or ()
    names = [declared] if isinstance(declared, str) else declared
    return any(str(name).strip().lower() == "curve" for name in names)


def curve_keypair() -> tuple[bytes, bytes]:
    """Return a new public and secret key (Z85).

    Raises:
        ConfigurationError: The installed libzmq was built without CurveZMQ.
    """
    import zmq

    if not zmq.has("curve"):
        raise ConfigurationError(
            "Encryption is wanted, but the installed libzmq was built without CurveZMQ.",
            hint="Install pyzmq's own wheel: `pip install --force-reinstall --only-binary :all: pyzmq`.",
        )
    public, secret = zmq.curve_keypair()
    return public, secret
