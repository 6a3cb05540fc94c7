"""A bare Debian in a folder: what a newcomer's machine has, which is Python and pip and nothing else."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from environment import show

ROOT = Path(__file__).resolve().parent.parent
SUITE = "bookworm"
BASE = ROOT / ".cache" / "bare" / SUITE
PACKAGES = ["python3", "python3-pip", "ca-certificates"]
# How this machine reaches package indexes; of the rest of it nothing is taken over.
_FILES = ["/etc/resolv.conf", "/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf"]
_VARIABLES = ("PIP_", "SSL_CERT_", "REQUESTS_CA_BUNDLE", "http_proxy", "https_proxy", "no_proxy")
# A container engine needs control groups, and a root that is a mount and no chroot.
_ENTER = """\
set -e
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts {root}/dev/pts
mount --rbind /sys {root}/sys
mount --rbind {root} {root}
cd {root}
pivot_root . mnt
umount --lazy /mnt
exec chroot . sh -c {inside}
"""
_OURS = ("CI", "KERNEL_PROVISIONERS_")


def run(command: list[str]) -> int:
    """Run a command in a copy of the repository on a bare Debian; return its exit status.

    The system is made once and kept in .cache; each run has a copy of its own, which is removed. The
    command's processes live in namespaces of their own and end with it.
    """
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        sys.exit("This needs root and debootstrap (apt-get install debootstrap).")
    _make_base()
    with tempfile.TemporaryDirectory(prefix="bare-", dir=BASE.parent) as folder:
        root = Path(folder) / "root"
        subprocess.run(["cp", "--archive", str(BASE), str(root)], check=True)
        for name in filter(os.path.exists, _FILES):
            shutil.copyfile(name, root / name.lstrip("/"))
        _copy_repository(root / "root" / ROOT.name)
        # an installer would write it
        (root / "etc" / "hosts").write_text("127.0.0.1 localhost\n")
        # the shell stays: it is the first process in there, and has to reap what others leave to it
        inside = f"cd /root/{shlex.quote(ROOT.name)} && {shlex.join(command)}; exit $?"
        enter = _ENTER.format(root=shlex.quote(str(root)), inside=shlex.quote(inside))
        isolated = ["unshare", "--mount", "--pid", "--fork", "--kill-child"]
        isolated += [f"--mount-proc={root / 'proc'}", "sh", "-c", enter]
        return show(isolated, env=_environ()).returncode


def _make_base() -> None:
    if BASE.exists():
        return
    BASE.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BASE.parent) as folder:
        made = Path(folder) / SUITE
        options = ["--variant=minbase", f"--include={','.join(PACKAGES)}"]
        show(["debootstrap", *options, SUITE, str(made), *_mirror()], check=True)
        made.rename(BASE)


def _mirror() -> list[str]:
    """Return the mirror that this machine's apt uses, if it is a Debian's; else leave it to debootstrap."""
    if shutil.which("apt-get") is None:
        return []
    query = ["apt-get", "indextargets", "--format", "$(ORIGIN) $(CODENAME) $(REPO_URI)"]
    listed = subprocess.run(query, check=True, capture_output=True, text=True).stdout
    lines = [line.split() for line in listed.splitlines()]
    return [line[2] for line in lines if line[:2] == ["Debian", SUITE]][:1]


def _copy_repository(target: Path) -> None:
    query = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(query, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def _environ() -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k.startswith(_VARIABLES + _OURS)}
    return kept | {
        "HOME": "/root",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    }
