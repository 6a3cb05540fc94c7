#!/usr/bin/env python3
"""Write a docker-archive (what `docker save` writes) from one rootfs tar; no registry, no engine.

mkimage.py NAME OUT.tar ROOTFS.tar [--entrypoint A B ...]
"""

import hashlib
import io
import json
import sys
import tarfile

name, out, rootfs, *entry = sys.argv[1:]
entry = entry[1:] if entry and entry[0] == "--entrypoint" else []
h = hashlib.sha256()
with open(rootfs, "rb") as f:
    for block in iter(lambda: f.read(1 << 20), b""):
        h.update(block)
diff = h.hexdigest()
cfg = {
    "architecture": "amd64",
    "os": "linux",
    "created": "1970-01-01T00:00:00Z",
    "config": {
        "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
        **({"Entrypoint": entry} if entry else {}),
    },
    "rootfs": {"type": "layers", "diff_ids": ["sha256:" + diff]},
    "history": [{"created": "1970-01-01T00:00:00Z", "created_by": "mkimage.py"}],
}
cfg_b = json.dumps(cfg).encode()
cfg_n = hashlib.sha256(cfg_b).hexdigest() + ".json"
man_b = json.dumps(
    [{"Config": cfg_n, "RepoTags": [name], "Layers": [diff + "/layer.tar"]}]
).encode()
with tarfile.open(out, "w") as t:

    def add(n: str, b: bytes) -> None:  # noqa: D103
        i = tarfile.TarInfo(n)
        i.size = len(b)
        t.addfile(i, io.BytesIO(b))

    add(cfg_n, cfg_b)
    i = t.gettarinfo(rootfs, diff + "/layer.tar")
    i.uid = i.gid = 0
    i.uname = i.gname = ""
    with open(rootfs, "rb") as f:
        t.addfile(i, f)
    add("manifest.json", man_b)
