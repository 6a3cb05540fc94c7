"""When a kernel is to encrypt."""

from types import SimpleNamespace

import pytest
import zmq

from kernel_provisioner_core import ConfigurationError
from kernel_provisioner_core.encryption import curve_keypair, curve_wanted

PLAIN = SimpleNamespace(metadata={})


def spec(declared):
    return SimpleNamespace(metadata={"supported_encryption": declared})


@pytest.mark.parametrize("declared", ["curve", " CURVE ", ["curve"], ("other", "Curve"), {"curve"}])
def test_auto_encrypts_where_the_kernelspec_declares_it(declared):
    assert curve_wanted("auto", spec(declared), "tcp")
    assert curve_wanted("required", spec(declared), "ipc")


@pytest.mark.parametrize("kernel_spec", [PLAIN, None, spec(None), spec([]), spec("other")])
def test_auto_does_not_encrypt_elsewhere(kernel_spec):
    assert not curve_wanted("auto", kernel_spec, "tcp")


def test_disabled_never_encrypts():
    assert not curve_wanted("disabled", spec("curve"), "tcp")


def test_required_is_refused_where_it_cannot_be_had():
    with pytest.raises(ConfigurationError, match="'required'") as info:
        curve_wanted("required", PLAIN, "tcp")
    assert "supported_encryption" in info.value.hint
    with pytest.raises(ConfigurationError):
        curve_wanted("required", spec("curve"), "inproc")


def test_an_unknown_policy_is_refused():
    with pytest.raises(ConfigurationError, match="'maybe'"):
        curve_wanted("maybe", PLAIN, "tcp")


def test_the_keys_belong_together():
    public, secret = curve_keypair()
    assert zmq.curve_public(secret) == public


def test_a_libzmq_without_curve_is_named(monkeypatch):
    monkeypatch.setattr(zmq, "has", lambda feature: False)
    with pytest.raises(ConfigurationError, match="without CurveZMQ"):
        curve_keypair()
