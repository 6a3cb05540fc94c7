"""The role that is printed: with it everything works, and nothing in it is unused."""

import asyncio
import re

import pytest
import yaml

from kernel_provisioner_k8s import KubernetesProvisioner, client, rbac

# What the websockets of exec and port-forward need from Kubernetes 1.35 on; before, they are a `get`.
NEWER = {("pods/exec", "create"), ("pods/portforward", "create")}


def rules(namespace="default"):
    [role] = [d for d in yaml.safe_load_all(rbac.manifests(namespace)) if d["kind"] == "Role"]
    return role["rules"]


def verbs_of(rules):
    return {(r, v) for rule in rules for r in rule["resources"] for v in rule["verbs"]}


def test_the_manifests_are_for_the_namespace_that_is_asked_for(capsys):
    assert rbac.main(["--namespace", "notebooks"]) == 0
    documents = list(yaml.safe_load_all(capsys.readouterr().out))
    assert [document["kind"] for document in documents] == ["ServiceAccount", "Role", "RoleBinding"]
    assert {document["metadata"]["namespace"] for document in documents} == {"notebooks"}
    assert documents[2]["subjects"][0]["namespace"] == "notebooks"


@pytest.mark.parametrize("name", ["a: b", "A", "", "x" * 64])
def test_what_is_no_namespace_is_refused(name, capsys):
    with pytest.raises(SystemExit):
        rbac.main(["--namespace", name])


class Requests:
    """The verbs that the requests of a test need, in the words of roles."""

    def __init__(self, monkeypatch):
        self.verbs = set()
        send, dial = client.Cluster._send, client.Cluster._dial

        def recording_send(cluster, method, path, query, *rest):
            self.note(method, path, query or {})
            return send(cluster, method, path, query, *rest)

        def recording_dial(cluster, path, query):
            self.note("GET", path, {})
            return dial(cluster, path, query)

        monkeypatch.setattr(client.Cluster, "_send", recording_send)
        monkeypatch.setattr(client.Cluster, "_dial", recording_dial)

    def note(self, method, path, query):
        kind, name, sub = re.fullmatch(
            r"/api/v1/namespaces/[^/]+/(\w+)(/[^/]+)?(/\w+)?", path
        ).groups()
        verb = {"POST": "create", "DELETE": "delete", "GET": "get" if name else "list"}[method]
        if query.get("watch"):
            verb = "watch"
        self.verbs.add((kind + (sub or ""), verb))


@pytest.mark.needs("kubernetes")
async def test_with_the_role_everything_works_and_nothing_in_it_is_unused(
    cluster, kernels, account, monkeypatch
):
    kubeconfig = account(rules())
    requests = Requests(monkeypatch)
    kernel = await kernels({"kubeconfig": kubeconfig}).start()
    await kernel.connect()
    assert await kernel.run("print(1)") == "1"
    await kernel.manager.interrupt_kernel()
    await asyncio.to_thread(kernel.provisioner.get_logs)
    await kernel.manager.restart_kernel()
    await kernel.client.wait_for_ready(30)
    info = await kernel.provisioner.get_provisioner_info()
    adopter = KubernetesProvisioner(
        kernel_id=kernel.manager.kernel_id,
        image="x",
        namespace=cluster.namespace,
        kubeconfig=kubeconfig,
    )
    await adopter.load_provisioner_info(info)
    assert await adopter.poll() is None
    await adopter.cleanup()
    await kernel.close()
    assert requests.verbs == verbs_of(rules()) - NEWER
