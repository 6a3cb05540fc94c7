"""What importing costs, less what starting Python costs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterable

from measurement import Plan, Row, at_most, measurement, told

# the baseline is the same command with nothing to import
STATEMENTS = {
    "python": "pass",
    "kernel_provisioner_core": "import kernel_provisioner_core",
    "kernel_provisioner_local": "import kernel_provisioner_local",
    "jupyter_client": "import jupyter_client",
    "zmq + traitlets": "import zmq, traitlets",
}


@measurement("imports", rounds=25, quick_rounds=3)
def imports(plan: Plan) -> Iterable[Row]:
    """import kernel_provisioner_core against import jupyter_client, new processes, in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in STATEMENTS}
    for number in range(plan.rounds + 1):
        for name, statement in STATEMENTS.items():
            child = subprocess.Popen([sys.executable, "-c", statement])
            _, status, used = os.wait4(child.pid, 0)
            child.returncode = os.waitstatus_to_exitcode(status)
            if child.returncode:
                raise RuntimeError(f"{statement!r} failed.")
            if number:  # the first time compiles and reads from the disk
                seconds[name].append(used.ru_utime + used.ru_stime)
    # CPU time, since an import waits for nothing; noise only adds to it, so the least is the best estimate
    bare = min(seconds["python"])
    core = min(seconds["kernel_provisioner_core"]) - bare
    client = min(seconds["jupyter_client"]) - bare
    yield at_most_ratio(seconds, core / client)
    for name, values in seconds.items():
        if name != "python":
            yield told(f"import {name}, less bare Python", "s", {name: [v - bare for v in values]})


def at_most_ratio(seconds: dict[str, list[float]], value: float) -> Row:
    names = ("kernel_provisioner_core", "jupyter_client", "python")
    row = at_most(
        "CPU time of a new process that imports",
        "s",
        {name: seconds[name] for name in names},
        value,
        0.5,
        "ratio of the minima, less bare Python's",
    )
    return Row(**{**vars(row), "value_unit": "x"})
