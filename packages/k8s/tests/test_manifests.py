"""The pod and the Secret that are built from options, compared as a whole."""

import base64
import json

import pytest

from kernel_provisioner_core.errors import ConfigurationError
from kernel_provisioner_core.remote import LaunchRequest
from kernel_provisioner_k8s.manifests import PodOptions, build_pod, build_secret, merge
from kernel_provisioner_k8s.naming import connection_file_name, label_values, pod_name

KEY = "not-for-everybody"


def request_for(
    kernel_id="abc",
    *,
    argv=("python3", "-m", "ipykernel_launcher"),
    env=None,
    user="ada",
    **connection,
):
    return LaunchRequest(
        kernel_id=kernel_id,
        argv=argv,
        env=env or {},
        cwd="",
        connection_file=f"/run/kernel-provisioner/{connection_file_name(kernel_id)}",
        connection={"key": KEY, "shell_port": 27101, **connection},
        labels={
            "kernel-provisioner.kernel-id": kernel_id,
            "kernel-provisioner.owner-user": user,
        },
    )


def pod_of(request=None, **options):
    return build_pod(
        request or request_for(), PodOptions(image="kernel:1", **options), "kernel-abc-1"
    )


def kernel_of(pod):
    return pod["spec"]["containers"][0]


def test_a_pod_with_an_image_alone_is_secure_and_has_nothing_more():
    assert pod_of() == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": "kernel-abc-1",
            "labels": {
                "app.kubernetes.io/managed-by": "kernel-provisioner-k8s",
                "kernel-provisioner.kernel-id": "abc",
                "kernel-provisioner.owner-user": "ada",
            },
            "annotations": {
                "kernel-provisioner.kernel-id": "abc",
                "kernel-provisioner.owner-user": "ada",
            },
        },
        "spec": {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "shareProcessNamespace": True,
            "terminationGracePeriodSeconds": 5,
            "securityContext": {
                "fsGroup": 100,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "volumes": [
                {
                    "name": "kernel-connection",
                    "secret": {"secretName": "kernel-abc-1", "defaultMode": 0o440},
                }
            ],
            "containers": [
                {
                    "name": "kernel",
                    "image": "kernel:1",
                    "command": ["python3", "-m", "ipykernel_launcher"],
                    "securityContext": {"allowPrivilegeEscalation": False},
                    "volumeMounts": [
                        {
                            "name": "kernel-connection",
                            "mountPath": "/run/kernel-provisioner",
                            "readOnly": True,
                        }
                    ],
                }
            ],
        },
    }


def test_every_option_has_its_place_in_the_pod():
    pod = pod_of(
        request_for(env={"A": "1"}),
        pull_policy="Always",
        pull_secrets=["registry"],
        env_from=[{"secret": "s", "prefix": "S_"}, {"config_map": "c"}],
        working_dir="/work",
        user=1000,
        group=1001,
        fs_group=1002,
        run_as_non_root=True,
        node_selector={"pool": "gpu"},
        tolerations=[{"key": "gpu", "operator": "Exists"}],
        affinity={"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}},
        priority_class="high",
        service_account="robot",
        service_account_token=True,
        share_process_namespace=False,
        labels={"team": "x"},
        annotations={"note": "y: {}"},
        init_containers=[{"name": "i", "image": "i:1"}],
        sidecars=[{"name": "s", "image": "s:1", "resources": {"limits": {"cpu": 1}}}],
    )
    spec = pod["spec"]
    assert pod["metadata"]["labels"]["team"] == "x"
    assert pod["metadata"]["annotations"]["note"] == "y: {}"
    assert spec["imagePullSecrets"] == [{"name": "registry"}]
    assert spec["securityContext"] == {
        "runAsUser": 1000,
        "runAsGroup": 1001,
        "runAsNonRoot": True,
        "fsGroup": 1002,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert spec["nodeSelector"] == {"pool": "gpu"}
    assert spec["tolerations"] == [{"key": "gpu", "operator": "Exists"}]
    assert spec["affinity"] == {
        "podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": []}
    }
    assert (spec["priorityClassName"], spec["serviceAccountName"]) == ("high", "robot")
    assert spec["automountServiceAccountToken"] is True
    assert "shareProcessNamespace" not in spec
    assert spec["initContainers"] == [{"name": "i", "image": "i:1"}]
    kernel, sidecar = spec["containers"]
    assert sidecar == {"name": "s", "image": "s:1", "resources": {"limits": {"cpu": "1"}}}
    assert kernel["imagePullPolicy"] == "Always"
    assert kernel["workingDir"] == "/work"
    assert kernel["env"] == [{"name": "A", "value": "1"}]
    assert kernel["envFrom"] == [
        {"prefix": "S_", "secretRef": {"name": "s"}},
        {"configMapRef": {"name": "c"}},
    ]


def test_resources_are_requests_and_limits_unless_they_say_which():
    resources = {
        "cpu": 2,
        "memory": "4g",
        "gpu": 1,
        "example.com/fpga": 3,
        "requests": {"cpu": "250m"},
    }
    assert kernel_of(pod_of(resources=resources))["resources"] == {
        "limits": {"cpu": "2", "memory": "4Gi", "nvidia.com/gpu": "1", "example.com/fpga": "3"},
        "requests": {
            "cpu": "250m",
            "memory": "4Gi",
            "nvidia.com/gpu": "1",
            "example.com/fpga": "3",
        },
    }


def test_mounts_become_volumes():
    mounts = [
        {"type": "pvc", "source": "home", "target": "/home", "sub_path": "ada"},
        {"type": "config-map", "source": "c", "target": "/etc/c", "read_only": True},
        {"type": "secret", "source": "s", "target": "/etc/s"},
        {"type": "host-path", "source": "/data", "target": "/data"},
        {"type": "empty-dir", "target": "/scratch", "size": "1Gi"},
    ]
    pod = pod_of(mounts=mounts)
    assert pod["spec"]["volumes"][1:] == [
        {"name": "mount-0", "persistentVolumeClaim": {"claimName": "home"}},
        {"name": "mount-1", "configMap": {"name": "c"}},
        {"name": "mount-2", "secret": {"secretName": "s"}},
        {"name": "mount-3", "hostPath": {"path": "/data"}},
        {"name": "mount-4", "emptyDir": {"sizeLimit": "1Gi"}},
    ]
    assert kernel_of(pod)["volumeMounts"][1:] == [
        {"name": "mount-0", "mountPath": "/home", "subPath": "ada"},
        {"name": "mount-1", "mountPath": "/etc/c", "readOnly": True},
        {"name": "mount-2", "mountPath": "/etc/s"},
        {"name": "mount-3", "mountPath": "/data"},
        {"name": "mount-4", "mountPath": "/scratch"},
    ]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"resources": {"memory": "much"}}, "memory"),
        ({"resources": {"limits": 3}}, "resources.limits"),
        ({"mounts": [{"type": "pvc", "target": "/x"}]}, "no source"),
        ({"mounts": [{"type": "pvc", "source": "a", "target": "x"}]}, "absolute"),
        ({"mounts": [{"type": "nfs", "source": "a", "target": "/x"}]}, "'nfs'"),
        ({"mounts": [{"typ": "pvc", "source": "a", "target": "/x"}]}, "Did you mean 'type'?"),
        ({"env_from": [{"secrets": "a"}]}, "env_from"),
        ({"tolerations": [{"opperator": "Exists"}]}, "Did you mean 'operator'?"),
        ({"sidecars": [{"name": "s", "image": "i", "commands": []}]}, "Did you mean 'command'?"),
        ({"affinity": {"nodeAffinity": []}}, "affinity.nodeAffinity"),
        ({"pod_patch": {"spec": {"dnsPolizy": "None"}}}, "Did you mean 'dnsPolicy'?"),
        ({"pod_patch": {"spec": {"containers": [{"$patch": "replace"}]}}}, "takes away"),
    ],
)
def test_a_wrong_value_is_named(options, words):
    with pytest.raises(ConfigurationError) as caught:
        pod_of(**options)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    "text", ["$(PATH)", "$$(A)", "a: {b: [c]}", "'; rm -rf /; \"", "${X}", "{{ x }}", "é\n#"]
)
def test_what_is_special_elsewhere_passes_as_it_is(text):
    kernel = kernel_of(pod_of(request_for(argv=("run", text), env={"A": text})))
    # Kubernetes makes one dollar of two and expands nothing then
    assert kernel["command"][1].replace("$$", "$") == text
    assert "$(" not in kernel["command"][1].replace("$$", "")
    assert kernel["env"][0]["value"].replace("$$", "$") == text


def test_a_template_is_below_and_a_patch_above_what_is_built():
    template = {
        "metadata": {"labels": {"from": "template"}},
        "spec": {
            "dnsPolicy": "None",
            "containers": [
                {"name": "kernel", "image": "template:1", "tty": True},
                {"name": "proxy", "image": "p"},
            ],
        },
    }
    patch = {
        "metadata": {"name": "stolen", "labels": {"kernel-provisioner.kernel-id": "stolen"}},
        "spec": {
            "hostname": "k",
            "enableServiceLinks": None,
            "containers": [{"name": "kernel", "stdin": True}],
        },
    }
    pod = build_pod(
        request_for(),
        PodOptions(image="kernel:1", pod_patch=patch),
        "kernel-abc-1",
        template=template,
    )
    kernel, proxy = pod["spec"]["containers"]
    assert (kernel["image"], kernel["tty"], kernel["stdin"]) == ("kernel:1", True, True)
    assert proxy == {"name": "proxy", "image": "p"}
    assert (pod["spec"]["dnsPolicy"], pod["spec"]["hostname"]) == ("None", "k")
    assert "enableServiceLinks" not in pod["spec"]
    assert pod["metadata"]["labels"]["from"] == "template"
    # by these it is found again
    assert pod["metadata"]["name"] == "kernel-abc-1"
    assert pod["metadata"]["labels"]["kernel-provisioner.kernel-id"] == "abc"


@pytest.mark.parametrize(
    ("base", "patch", "merged"),
    [
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": None}}, {"a": {"c": 2}}),
        ({"args": ["a"]}, {"args": ["b"]}, {"args": ["b"]}),
        ({"a": {"b": 1}}, {"a": {"$patch": "replace", "c": 2}}, {"a": {"c": 2}}),
        ({"a": {"b": 1}}, {"a": {"$patch": "delete"}}, {}),
        (
            {"env": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]},
            {"env": [{"name": "A", "$patch": "delete"}, {"name": "C", "value": "3"}]},
            {"env": [{"name": "B", "value": "2"}, {"name": "C", "value": "3"}]},
        ),
        (
            {"volumes": [{"name": "a"}]},
            {"volumes": [{"$patch": "replace"}, {"name": "b"}]},
            {"volumes": [{"name": "b"}]},
        ),
    ],
)
def test_a_patch_is_merged_as_kubectl_merges_it(base, patch, merged):
    assert merge(base, patch) == merged


def test_the_secret_belongs_to_the_pod_and_alone_has_the_key():
    request = request_for()
    secret = build_secret(request, "kernel-abc-1", "uid-1")
    content = secret.pop("data")
    assert secret == {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "immutable": True,
        "metadata": {
            "name": "kernel-abc-1",
            "labels": pod_of()["metadata"]["labels"],
            "ownerReferences": [
                {
                    "apiVersion": "v1",
                    "kind": "Pod",
                    "name": "kernel-abc-1",
                    "uid": "uid-1",
                    "blockOwnerDeletion": False,
                }
            ],
        },
    }
    assert json.loads(base64.b64decode(content["kernel-abc.json"]))["key"] == KEY
    assert KEY not in json.dumps(pod_of(request)) + repr(request)


@pytest.mark.parametrize(("program", "tool"), [("python3", "python3"), ("ir", "sh")])
def test_a_kernel_that_encrypts_gets_a_connection_file_that_it_can_write(program, tool):
    pod = pod_of(request_for(argv=(program, "x"), curve_secretkey="secret"))
    [copier] = pod["spec"]["initContainers"]
    assert copier["command"][0] == tool
    assert copier["command"][-2:] == [
        "/run/kernel-provisioner-secret/kernel-abc.json",
        "/run/kernel-provisioner/kernel-abc.json",
    ]
    assert copier["image"] == "kernel:1"
    assert pod["spec"]["volumes"][1] == {
        "name": "kernel-connection-copy",
        "emptyDir": {"medium": "Memory"},
    }
    assert kernel_of(pod)["volumeMounts"] == [
        {"name": "kernel-connection-copy", "mountPath": "/run/kernel-provisioner"}
    ]
    assert "secret" not in json.dumps(copier["command"][:-2])


def test_the_servers_own_pod_owns_the_kernels():
    owner = {"apiVersion": "v1", "kind": "Pod", "name": "hub", "uid": "u"}
    pod = build_pod(request_for(), PodOptions(image="i"), "n", owner=owner)
    assert pod["metadata"]["ownerReferences"] == [owner]


@pytest.mark.parametrize("kernel_id", ["abc", "Ünïcode ☃/../", "x" * 300, "", "-a-", "ABC"])
def test_any_kernel_id_makes_a_valid_name(kernel_id):
    import re

    name = pod_name(kernel_id, "0a1b2c")
    assert re.fullmatch("[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", name)
    assert re.fullmatch("[-._a-zA-Z0-9]{1,253}", connection_file_name(kernel_id))


def test_different_ids_that_are_alike_make_different_names():
    ids = ["abc", "ABC", "a/bc", "a-bc", "x" * 100, "x" * 101]
    assert len({pod_name(kernel_id, "1") for kernel_id in ids}) == len(ids)


@pytest.mark.parametrize("value", ["ada", "Ada.Lovelace", "ada lovelace", "ада", "x" * 64, "-", ""])
def test_any_user_name_makes_a_valid_label_and_stands_in_full_in_an_annotation(value):
    import re

    [label] = label_values({"u": value}).values()
    assert re.fullmatch("(([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9])?", label)
    pod = pod_of(request_for(user=value))
    assert pod["metadata"]["annotations"]["kernel-provisioner.owner-user"] == value
