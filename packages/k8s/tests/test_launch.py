"""Kernels in pods: how they are reached, what they are given, and the reasons when they do not come up."""

import asyncio
import json
import time
from pathlib import Path

import pytest
from cluster import ARGV, KERNEL_ID, connection_of

from kernel_provisioner_core.errors import (
    BackendUnavailableError,
    CommandNotFoundError,
    ConfigurationError,
    KernelProvisionerError,
    LaunchError,
)

pytestmark = pytest.mark.needs("kubernetes")
NOTHING = ["python3", "-c", "import time; time.sleep(60)"]


async def test_a_kernel_in_a_pod_computes(cluster, kernels):
    kernel = await kernels().start()
    await kernel.connect()
    assert await kernel.run("print(6 * 7)") == "42"


async def test_the_connection_file_is_a_private_secret_of_the_pod(cluster, kernels):
    kernel = await kernels({"image": "kernel-provisioners/kernel:nonroot"}).start()
    await kernel.connect()
    [secret] = cluster.secrets()
    [pod] = cluster.pods()
    assert secret["metadata"]["ownerReferences"][0]["uid"] == pod["metadata"]["uid"]
    key = connection_of(secret)["key"]
    assert key == kernel.manager.session.key.decode()
    assert key not in json.dumps(pod) + json.dumps(cluster.events(pod["metadata"]["name"]))
    code = (
        "import ipykernel.connect as c, os\n"
        "s = os.stat(c.get_connection_file())\n"
        "print(oct(s.st_mode & 0o777), s.st_uid, s.st_gid, os.getuid())"
    )
    assert await kernel.run(code) == "0o440 0 100 1000"
    await kernel.close()
    cluster.await_empty(f"{KERNEL_ID}={kernel.manager.kernel_id}")


async def test_the_kernel_has_no_token_and_cannot_gain_privileges(cluster, kernels):
    kernel = await kernels().start()
    await kernel.connect()
    code = (
        "import os\n"
        "print(os.path.exists('/var/run/secrets/kubernetes.io'), *[l.split()[1] for l in open('/proc/self/status') "
        "if l.startswith(('NoNewPrivs', 'Seccomp:'))])"
    )
    assert await kernel.run(code) == "False 1 2"


@pytest.mark.parametrize("kernel_id", ["Ünïcode user ☃/..", "x" * 120])
async def test_any_kernel_id_works(cluster, kernels, kernel_id):
    kernel = await kernels(kernel_id=kernel_id).start()
    await kernel.connect()
    assert await kernel.run("print(1)") == "1"


async def test_values_with_metacharacters_arrive_as_they_are(cluster, kernels):
    values = {
        "A": "$(PATH)",
        "B": "a: {b: [c]}\n- d",
        "C": "'; touch /tmp/x; \"$(id)`id`",
        "D": "{{ x }} %(y)s",
    }
    kernel = await kernels({"env": {"B": values["B"], "D": values["D"]}}, env=dict(values)).start()
    await kernel.connect()
    printed = await kernel.run(
        "import os, json; print(json.dumps([os.environ[n] for n in 'ABCD']))"
    )
    assert json.loads(printed) == [*values.values()]


@pytest.mark.parametrize(
    ("config", "argv", "error", "words"),
    [
        ({"namespace": "no-such-namespace"}, ARGV, ConfigurationError, "no-such-namespace"),
        ({"image": "no-such:image", "pull_policy": "Never"}, ARGV, LaunchError, "ErrImageNeverPull"),
        ({"image": "127.0.0.1:1/none:1"}, ARGV, LaunchError, "127.0.0.1:1/none:1"),
        ({"image": "Not An Image"}, ARGV, LaunchError, "InvalidImageName"),
        ({}, ["no-such-command"], CommandNotFoundError, "no-such-command"),
        ({"resources": {"cpu": 1000}}, NOTHING, LaunchError, "Insufficient cpu"),
        ({"node_selector": {"no": "where"}}, NOTHING, LaunchError, "didn't match"),
        ({"env_from": [{"secret": "missing"}]}, NOTHING, LaunchError, 'secret "missing" not found'),
        ({"run_as_non_root": True}, NOTHING, LaunchError, "run as root"),
        ({"service_account": "missing"}, NOTHING, LaunchError, "missing"),
        ({"labels": {"not valid!": "x"}}, NOTHING, LaunchError, "not valid!"),
        (
            {"init_containers": [{"name": "i", "image": "kernel-provisioners/kernel:test", "command": ["false"]}]},
            NOTHING,
            LaunchError,
            "init container 'i' ended with code 1",
        ),
    ],
)  # fmt: skip
async def test_what_keeps_a_pod_from_starting_is_told_at_once_in_the_clusters_words(
    cluster, kernels, config, argv, error, words
):
    kernel = kernels(config, argv=argv)
    begun = time.monotonic()
    with pytest.raises(error) as caught:
        await kernel.start()
    assert words in str(caught.value)
    assert time.monotonic() - begun < 30
    assert cluster.pods() == []


async def test_a_full_quota_is_told(cluster, kernels):
    cluster.api.create_namespaced_resource_quota(
        cluster.namespace, {"metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    )
    try:
        await asyncio.sleep(1)
        with pytest.raises(LaunchError, match="exceeded quota") as caught:
            await kernels().start()
        assert "resources" in caught.value.hint
    finally:
        cluster.api.delete_namespaced_resource_quota("none", cluster.namespace)


async def test_a_kernel_that_dies_at_its_start_is_quoted(cluster, kernels):
    argv = ["python3", "-c", "import sys; print('no license'); sys.exit(3)", "{connection_file}"]
    with pytest.raises(LaunchError) as caught:
        await kernels(argv=argv).start()
    assert "exited with code 3" in str(caught.value)
    assert "no license" in caught.value.output


async def test_a_command_that_is_no_kernel_is_given_up_after_launch_timeout(cluster, kernels):
    with pytest.raises(LaunchError, match="does not listen"):
        await kernels({"launch_timeout": 1}, argv=NOTHING).start()


@pytest.mark.parametrize("seconds", [0.0, 0.02, 0.06, 0.15, 0.4, 1.0, 1.6])
async def test_a_launch_that_is_cancelled_leaves_nothing(cluster, kernels, seconds):
    kernel = kernels(argv=NOTHING)
    task = asyncio.ensure_future(kernel.start())
    await asyncio.sleep(seconds)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    if kernel.manager.provisioner is not None:
        await kernel.manager.provisioner.cleanup()
    cluster.await_empty("app.kubernetes.io/managed-by=kernel-provisioner-k8s")


async def test_progress_is_told(cluster, kernels, caplog):
    caplog.set_level("INFO")
    kernel = kernels()
    kernel.manager.log.setLevel("INFO")
    kernel.manager.log.propagate = True
    await kernel.start()
    told = caplog.text
    assert "scheduled on" in told
    assert "started" in told


# -- credentials ----------------------------------------------------------------------------------


async def test_no_kubeconfig_is_told(kernels, tmp_path, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match="There is no kubeconfig"):
        await kernels().start()


async def test_an_unknown_context_is_told(kernels):
    with pytest.raises(ConfigurationError, match="no-such-context"):
        await kernels({"context": "no-such-context"}).start()


async def test_expired_credentials_are_told(cluster, kernels, account):
    with pytest.raises(BackendUnavailableError, match="does not accept the credentials"):
        await kernels({"kubeconfig": account.with_user({"token": "expired"})}).start()


async def test_a_forbidden_verb_is_told_in_the_clusters_words(cluster, kernels, account):
    rules = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "delete"]}
    ]
    with pytest.raises(LaunchError, match="cannot create resource") as caught:
        await kernels({"kubeconfig": account(rules)}).start()
    assert "rbac" in caught.value.hint


async def test_a_watch_that_is_forbidden_is_told_at_once(cluster, kernels, account):
    rules = [
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["create", "delete"]},
        {"apiGroups": [""], "resources": ["secrets"], "verbs": ["create"]},
    ]
    with pytest.raises(KernelProvisionerError, match="cannot list resource"):
        await kernels({"kubeconfig": account(rules)}).start()


async def test_an_api_server_that_is_away_is_told(kernels, account):
    path = account.with_user({"token": "x"})
    content = json.loads(Path(path).read_text())
    content["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    Path(path).write_text(json.dumps(content))
    with pytest.raises(BackendUnavailableError, match="cannot be reached"):
        await kernels({"kubeconfig": path}).start()
