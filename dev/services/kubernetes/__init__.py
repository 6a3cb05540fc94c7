"""A Kubernetes cluster with the images that tests run kernels in (see ../_image.py).

Where none is given, it is one node of our own on loopback: `build.sh` makes Kubernetes out of Debian's source package
(once, some minutes, kept in the user's cache), `up.sh` starts it with its own containerd, `down.sh` ends it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from services import _image, _machine
from services.kubernetes import _archive

HINT = (
    "Point KUBECONFIG to a cluster (kind or minikube will do) that has the images which `python3 dev images` builds, "
    "for instance by `kind load docker-image kernel-provisioners/kernel:test`."
)
NEEDED_BY = frozenset({"k8s"})
_HERE = Path(__file__).parent
_PROGRAMS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
    "kubectl",
)
_PACKAGES = [
    "conntrack",
    "containerd",
    "containernetworking-plugins",
    "etcd-server",
    "iproute2",
    "iptables",
    "openssl",
    "runc",
    "socat",
]


def find() -> bool:
    """Return whether the cluster of this environment answers."""
    return _answers(os.environ.get("KUBECONFIG"))


def running() -> bool:
    """Return whether a cluster of our own is there."""
    ours = _folder() / "run" / "kubeconfig"
    return ours.exists() and _answers(str(ours))


def up() -> dict[str, str]:
    """Find the cluster of this environment, or start one of our own."""
    ours = _folder() / "run" / "kubeconfig"
    given = os.environ.get("KUBECONFIG")
    if given != str(ours) and _answers(given):
        return {}
    with _machine.lock(_folder()):
        try:
            _machine.install(*_PACKAGES)
            if not all((_folder() / "bin" / program).exists() for program in _PROGRAMS):
                _machine.run(
                    str(_HERE / "build.sh"), env=os.environ | {"K8S_BUILD": " ".join(_PROGRAMS)}
                )
            environ = os.environ | {"K8S_SERVICES": "1"}
            _machine.run(str(_HERE / "up.sh"), str(_images()), env=environ)
        except BaseException:
            _machine.run(str(_HERE / "down.sh"), check=False)
            raise
    return {"KUBECONFIG": str(ours)}


def down() -> None:
    """End our cluster with its pods and forget its state; what was built stays, so that it is there quickly."""
    if (_folder() / "run").exists():
        _machine.run(str(_HERE / "down.sh"), "--wipe", check=False)


def _folder() -> Path:
    return _machine.folder("k8s")


def _images() -> Path:
    """Return the archive with the images, made anew when their recipe changes."""
    folder = _folder() / "img"
    folder.mkdir(exist_ok=True)
    base = _image.root_filesystem()
    recipe = hashlib.sha256(Path(_archive.__file__).read_bytes()).hexdigest()[:16]
    archive = folder / f"kernel-{base.stem}-{recipe}.tar"
    if not archive.exists():
        for old in folder.glob("kernel-*.tar"):
            old.unlink()
        _archive.write(archive, base)
    return archive


def _answers(kubeconfig: str | None) -> bool:
    """Return whether the API server answers within two seconds, and a node is ready for pods."""
    kubectl = shutil.which("kubectl") or str(_folder() / "bin" / "kubectl")
    environ = dict(os.environ)
    if kubeconfig:
        environ["KUBECONFIG"] = kubeconfig
    command = [kubectl, "--request-timeout=2s", "get", "--raw", "/readyz"]
    try:
        done = subprocess.run(
            command,
            check=False,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0 and done.stdout.strip() == b"ok"


def is_ours() -> bool:
    """Return whether the cluster of this environment is the one that `up` starts, whose parts a test may stop."""
    ours = _folder() / "run" / "kubeconfig"
    return os.environ.get("KUBECONFIG") == str(ours) and ours.exists()


def stop_api_server() -> None:
    """End the API server of our cluster, by force: asked to, it waits a minute for its streams. Pods go on."""
    pid = int((_folder() / "run" / "pid" / "kube-apiserver").read_text())
    os.kill(pid, signal.SIGKILL)
    while _is_running(pid):
        time.sleep(0.05)


def start_api_server() -> None:
    """Start the API server of our cluster again, and wait until it answers."""
    _machine.run(str(_HERE / "up.sh"), env=os.environ | {"K8S_SERVICES": "1"})


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
