"""What is sent to the API server, built from plain values; nothing here makes a request.

The parts that the options describe are typed objects of the Kubernetes client. What a user gives in Kubernetes' own
words (affinity, sidecars, a template, a patch) is checked against the same types, so that a misspelt
key is an error here; an older API server would drop it without a word.
"""

from __future__ import annotations

import base64
import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kernel_provisioner_core.errors import ConfigurationError
from kernel_provisioner_core.remote import LaunchRequest
from kernel_provisioner_k8s.client import models, serialize
from kernel_provisioner_k8s.naming import KERNEL_CONTAINER, MANAGED_BY, label_values

__all__ = ["PodOptions", "build_pod", "build_secret", "merge"]

_CONNECTION_VOLUME = "kernel-connection"
_COPY_VOLUME = "kernel-connection-copy"
_SECRET_FOLDER = "/run/kernel-provisioner-secret"
_COPY_BY_PYTHON = """
import os, sys
os.umask(0o077)
with open(sys.argv[1]) as source, open(sys.argv[2], "x") as target:
    target.write(source.read())
"""
_GPU = "nvidia.com/gpu"
_GRACE = 5  # seconds that a pod gets which somebody else deletes

# The key by which Kubernetes merges the items of these lists; other lists are replaced as a whole.
_MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
    "volumeDevices": "devicePath",
    "env": "name",
    "ports": "containerPort",
    "imagePullSecrets": "name",
    "hostAliases": "ip",
    "topologySpreadConstraints": "topologyKey",
    "ownerReferences": "uid",
}


@dataclass(frozen=True)
class PodOptions:
    """The options that make a pod; each is the trait of the same name, where its meaning is told."""

    image: str
    pull_policy: str | None = None
    pull_secrets: Sequence[str] = ()
    env_from: Sequence[Mapping[str, str]] = ()
    working_dir: str = ""
    user: int | None = None
    group: int | None = None
    fs_group: int = 100
    run_as_non_root: bool | None = None
    resources: Mapping[str, Any] = field(default_factory=dict)
    mounts: Sequence[Mapping[str, Any]] = ()
    node_selector: Mapping[str, str] = field(default_factory=dict)
    tolerations: Sequence[Mapping[str, Any]] = ()
    affinity: Mapping[str, Any] = field(default_factory=dict)
    priority_class: str = ""
    service_account: str = ""
    service_account_token: bool = False
    share_process_namespace: bool = True
    labels: Mapping[str, str] = field(default_factory=dict)
    annotations: Mapping[str, str] = field(default_factory=dict)
    init_containers: Sequence[Mapping[str, Any]] = ()
    sidecars: Sequence[Mapping[str, Any]] = ()
    pod_patch: Mapping[str, Any] = field(default_factory=dict)


def build_pod(
    request: LaunchRequest,
    options: PodOptions,
    name: str,
    *,
    owner: Mapping[str, Any] | None = None,
    template: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the pod of a kernel, as JSON values.

    Args:
        request: What is to be run.
        options: How.
        name: The pod's name.
        owner: The owner reference of the pod that this server runs in, if it runs in one.
        template: A pod in Kubernetes' own words that the built one is laid over.

    Raises:
        ConfigurationError: An option has a value that no pod can have.
    """
    built: dict[str, Any] = serialize(
        models.V1Pod(
            api_version="v1",
            kind="Pod",
            metadata=models.V1ObjectMeta(
                name=name,
                labels={**options.labels, **_labels(request.labels)},
                annotations={**options.annotations, **request.labels},
                owner_references=[_typed("V1OwnerReference", owner, "owner")] if owner else None,
            ),
            spec=models.V1PodSpec(
                restart_policy="Never",
                containers=[
                    _kernel_container(request, options),
                    *_containers(options.sidecars, "sidecars"),
                ],
                init_containers=[
                    *_connection_containers(request, options),
                    *_containers(options.init_containers, "init_containers"),
                ]
                or None,
                volumes=[
                    models.V1Volume(
                        name=_CONNECTION_VOLUME,
                        secret=models.V1SecretVolumeSource(secret_name=name, default_mode=0o440),
                    ),
                    *_copy_volumes(request),
                    *(_volume(i, mount) for i, mount in enumerate(options.mounts)),
                ],
                security_context=models.V1PodSecurityContext(
                    run_as_user=options.user,
                    run_as_group=options.group,
                    run_as_non_root=options.run_as_non_root,
                    fs_group=options.fs_group,
                    fs_group_change_policy="OnRootMismatch",
                    seccomp_profile=models.V1SeccompProfile(type="RuntimeDefault"),
                ),
                image_pull_secrets=[
                    models.V1LocalObjectReference(name=secret) for secret in options.pull_secrets
                ]
                or None,
                node_selector=dict(options.node_selector) or None,
                tolerations=[
                    _typed("V1Toleration", given, f"tolerations[{i}]")
                    for i, given in enumerate(options.tolerations)
                ]
                or None,
                affinity=_typed("V1Affinity", options.affinity, "affinity")
                if options.affinity
                else None,
                priority_class_name=options.priority_class or None,
                service_account_name=options.service_account or None,
                automount_service_account_token=options.service_account_token,
                share_process_namespace=options.share_process_namespace or None,
                enable_service_links=False,
                termination_grace_period_seconds=_GRACE,
            ),
        )
    )
    pod = merge(template or {}, built)
    pod = merge(pod, options.pod_patch)
    # by these the provisioner finds what it has made
    pod = merge(pod, {"metadata": {"name": name, "labels": _labels(request.labels)}})
    pod["metadata"].pop("namespace", None)
    _typed("V1Pod", pod, "pod")
    if KERNEL_CONTAINER not in [container.get("name") for container in pod["spec"]["containers"]]:
        raise ConfigurationError(
            f"pod_patch takes away the container {KERNEL_CONTAINER!r}, in which the kernel runs.",
            hint="Patch it by its name instead of replacing the list.",
        )
    return pod


def build_secret(request: LaunchRequest, name: str, pod_uid: str) -> dict[str, Any]:
    """Return the Secret with the connection file, as JSON values; it is gone when its pod is gone."""
    text = base64.b64encode(request.connection_text.encode()).decode()
    secret = models.V1Secret(
        api_version="v1",
        kind="Secret",
        type="Opaque",
        immutable=True,  # spares every kubelet a watch on it
        metadata=models.V1ObjectMeta(
            name=name,
            labels=_labels(request.labels),
            owner_references=[
                models.V1OwnerReference(
                    api_version="v1", kind="Pod", name=name, uid=pod_uid, block_owner_deletion=False
                )
            ],
        ),
        data={request.connection_file.rpartition("/")[2]: text},
    )
    made: dict[str, Any] = serialize(secret)
    return made


def merge(base: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pod with a strategic merge patch applied, as `kubectl patch` does it.

    Objects are merged; lists of containers, volumes, variables and the like by the names of their items; null
    removes; `{"$patch": "replace"}` and `{"$patch": "delete"}` in an object or an item say so. Other lists are
    replaced.
    """
    merged: dict[str, Any] = dict(base)
    if patch.get("$patch") == "replace":
        return _plain(patch)
    for name, value in patch.items():
        if name == "$patch":
            continue
        if value is None:
            merged.pop(name, None)
        elif isinstance(value, Mapping):
            if value.get("$patch") == "delete":
                merged.pop(name, None)
                continue
            old = merged.get(name)
            merged[name] = merge(old if isinstance(old, Mapping) else {}, value)
        elif name in _MERGE_KEYS and isinstance(value, Sequence) and not isinstance(value, str):
            merged[name] = _merge_lists(merged.get(name) or [], value, _MERGE_KEYS[name])
        else:
            merged[name] = value
    return merged


def _merge_lists(base: Iterable[Any], patch: Iterable[Any], key: str) -> list[Any]:
    items = list(base)
    for change in patch:
        if not isinstance(change, Mapping):
            items.append(change)
            continue
        if change.get("$patch") == "replace" and key not in change:
            items.clear()
            continue
        places = [
            i
            for i, item in enumerate(items)
            if isinstance(item, Mapping) and item.get(key) == change.get(key)
        ]
        if change.get("$patch") == "delete":
            items = [item for i, item in enumerate(items) if i not in places]
        elif places:
            items[places[0]] = merge(items[places[0]], change)
        else:
            items.append(merge({}, change))
    return items


def _plain(patch: Mapping[str, Any]) -> dict[str, Any]:
    return merge({}, {name: value for name, value in patch.items() if name != "$patch"})


def _is_rewritten(request: LaunchRequest) -> bool:
    """Return whether the kernel writes its connection file anew, for which a Secret's is no place.

    ipykernel does if it encrypts: it takes the keys that it has read for others than those in the file.
    """
    return bool(request.connection.get("curve_secretkey"))


def _connection_containers(request: LaunchRequest, options: PodOptions) -> list[Any]:
    """Return the container that copies the connection file to where it can be written, if it has to be."""
    if not _is_rewritten(request):
        return []
    folder, _, file = request.connection_file.rpartition("/")
    source, target = f"{_SECRET_FOLDER}/{file}", request.connection_file
    program = request.argv[0] if request.argv else ""
    if re.search(r"(^|/)python[0-9.]*$", program):
        command = [program, "-c", _COPY_BY_PYTHON, source, target]
    else:
        command = ["sh", "-c", 'umask 077 && cat "$1" >"$2"', "sh", source, target]
    kernel = _kernel_container(request, options)
    return [
        models.V1Container(
            name=_CONNECTION_VOLUME,
            image=kernel.image,
            image_pull_policy=kernel.image_pull_policy,
            command=[_verbatim(word) for word in command],
            resources=kernel.resources,
            security_context=kernel.security_context,
            volume_mounts=[
                models.V1VolumeMount(
                    name=_CONNECTION_VOLUME, mount_path=_SECRET_FOLDER, read_only=True
                ),
                models.V1VolumeMount(name=_COPY_VOLUME, mount_path=folder),
            ],
        )
    ]


def _copy_volumes(request: LaunchRequest) -> list[Any]:
    if not _is_rewritten(request):
        return []
    memory = models.V1EmptyDirVolumeSource(medium="Memory")
    return [models.V1Volume(name=_COPY_VOLUME, empty_dir=memory)]


def _kernel_container(request: LaunchRequest, options: PodOptions) -> Any:
    limits, requests = _quantities(options.resources)
    return models.V1Container(
        name=KERNEL_CONTAINER,
        image=options.image,
        image_pull_policy=options.pull_policy,
        command=[_verbatim(word) for word in request.argv],
        env=[
            models.V1EnvVar(name=name, value=_verbatim(value))
            for name, value in request.env.items()
        ]
        or None,
        env_from=[_env_source(source) for source in options.env_from] or None,
        working_dir=options.working_dir or None,
        resources=models.V1ResourceRequirements(limits=limits or None, requests=requests or None)
        if limits or requests
        else None,
        volume_mounts=[
            models.V1VolumeMount(
                name=_COPY_VOLUME if _is_rewritten(request) else _CONNECTION_VOLUME,
                mount_path=request.connection_file.rpartition("/")[0],
                read_only=None if _is_rewritten(request) else True,
            ),
            *(_volume_mount(i, mount) for i, mount in enumerate(options.mounts)),
        ],
        security_context=models.V1SecurityContext(allow_privilege_escalation=False),
    )


def _verbatim(text: str) -> str:
    """Keep Kubernetes from expanding $(NAME) in a text."""
    return text.replace("$", "$$")


def _containers(given: Iterable[Mapping[str, Any]], option: str) -> Iterable[Any]:
    for i, container in enumerate(given):
        yield _typed("V1Container", container, f"{option}[{i}]")


def _quantities(resources: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, str]]:
    """Return limits and requests; what is in neither group is both."""
    groups = {name: resources.get(name) or {} for name in ("limits", "requests")}
    for name, group in groups.items():
        if not isinstance(group, Mapping):
            raise ConfigurationError(f"resources.{name} has to be an object, and is {group!r}.")
    common = {name: value for name, value in resources.items() if name not in groups}
    limits, requests = (
        dict(_quantity(name, value) for name, value in {**common, **groups[group]}.items())
        for group in ("limits", "requests")
    )
    return limits, requests


def _quantity(name: str, value: Any) -> tuple[str, str]:
    text = str(value).strip()
    if name == "memory" and (match := re.fullmatch(r"(\d+(?:\.\d+)?)([mg])b?", text)):
        # as containers have it elsewhere; to Kubernetes, "m" would be a thousandth of a byte
        text = f"{match[1]}{match[2].upper()}i"
    if isinstance(value, bool) or not re.fullmatch(
        r"\d*\.?\d+([numkMGTPE]|[KMGTPE]i|[eE]\d+)?", text
    ):
        raise ConfigurationError(
            f"resources: {name} is {value!r}, which is no quantity.",
            hint='Write for instance "500m" or 2 for cpu, "2Gi" for memory, 1 for gpu.',
        )
    return (_GPU if name == "gpu" else name), text


def _env_source(source: Mapping[str, str]) -> Any:
    given = dict(source)
    prefix = given.pop("prefix", None)
    kind, name = next(iter(given.items()), ("", ""))
    if len(given) != 1 or kind not in ("secret", "config_map"):
        raise ConfigurationError(
            f"env_from: {dict(source)!r} is not understood.",
            hint='Write {"secret": NAME} or {"config_map": NAME}; "prefix" may be added.',
        )
    if kind == "secret":
        return models.V1EnvFromSource(prefix=prefix, secret_ref=models.V1SecretEnvSource(name=name))
    return models.V1EnvFromSource(
        prefix=prefix, config_map_ref=models.V1ConfigMapEnvSource(name=name)
    )


_MOUNT_KEYS = {"type", "source", "target", "read_only", "sub_path", "size"}


def _checked_mount(mount: Mapping[str, Any]) -> Mapping[str, Any]:
    unknown = sorted(set(mount) - _MOUNT_KEYS)
    if unknown:
        raise ConfigurationError(
            f"mounts: {unknown[0]!r} is no property of a mount.{_nearest(unknown[0], _MOUNT_KEYS)}",
            hint=f"They are: {', '.join(sorted(_MOUNT_KEYS))}.",
        )
    if not str(mount.get("target", "")).startswith("/"):
        raise ConfigurationError(
            f"mounts: {dict(mount)!r} has no absolute path as its target.",
            hint='Write for instance {"type": "pvc", "source": "home", "target": "/home/jovyan"}.',
        )
    if mount.get("type") != "empty-dir" and not mount.get("source"):
        raise ConfigurationError(f"mounts: {dict(mount)!r} has no source.")
    return mount


def _volume(number: int, mount: Mapping[str, Any]) -> Any:
    mount = _checked_mount(mount)
    source = str(mount.get("source", ""))
    made = models.V1Volume(name=f"mount-{number}")
    kind = mount.get("type")
    if kind == "pvc":
        made.persistent_volume_claim = models.V1PersistentVolumeClaimVolumeSource(claim_name=source)
    elif kind == "config-map":
        made.config_map = models.V1ConfigMapVolumeSource(name=source)
    elif kind == "secret":
        made.secret = models.V1SecretVolumeSource(secret_name=source)
    elif kind == "host-path":
        made.host_path = models.V1HostPathVolumeSource(path=source)
    elif kind == "empty-dir":
        size = mount.get("size")
        made.empty_dir = models.V1EmptyDirVolumeSource(
            size_limit=_quantity("memory", size)[1] if size else None
        )
    else:
        raise ConfigurationError(
            f"mounts: there is no type {kind!r}.",
            hint="The types are pvc, config-map, secret, host-path and empty-dir; pod_patch can do more.",
        )
    return made


def _volume_mount(number: int, mount: Mapping[str, Any]) -> Any:
    return models.V1VolumeMount(
        name=f"mount-{number}",
        mount_path=mount["target"],
        read_only=bool(mount.get("read_only")) or None,
        sub_path=mount.get("sub_path"),
    )


def _labels(labels: Mapping[str, str]) -> dict[str, str]:
    """Return what is a valid label; the values in full are annotations of the same name."""
    return {**MANAGED_BY, **label_values(labels)}


def _typed(kind: str, value: Any, where: str) -> Any:
    """Return an object of the Kubernetes client made from JSON values, checking every key and its type.

    Raises:
        ConfigurationError: A key does not exist, or has a value of the wrong kind.
    """
    if value is None:
        return None
    # the library's versions write it in different ways: list[V1Container], List[V1Container], dict(str, str)
    if (match := re.fullmatch(r"[lL]ist\[(.*)\]|[dD]ict[(\[]str, (.*)[)\]]", kind)) is not None:
        return _typed_items(match[1] or match[2], value, where, is_list=match[1] is not None)
    model = getattr(models, kind, None)
    if model is None:
        return value  # text, numbers, dates: the API server says what is wrong with them
    if not isinstance(value, Mapping):
        raise ConfigurationError(f"{where} has to be an object, and is {value!r}.")
    attributes = {json_name: name for name, json_name in model.attribute_map.items()}
    arguments = {}
    for json_name, item in value.items():
        if json_name not in attributes:
            raise ConfigurationError(
                f"{where} has no {json_name!r}.{_nearest(json_name, attributes)}",
                hint="These are Kubernetes' own names, as in its manifests.",
            )
        name = attributes[json_name]
        arguments[name] = _typed(model.openapi_types[name], item, f"{where}.{json_name}")
    try:
        return model(**arguments)
    except ValueError as error:
        raise ConfigurationError(f"{where}: {_first_fault(error)}") from error


def _typed_items(kind: str, value: Any, where: str, *, is_list: bool) -> Any:
    if is_list and isinstance(value, Sequence) and not isinstance(value, str):
        return [_typed(kind, item, f"{where}[{i}]") for i, item in enumerate(value)]
    if not is_list and isinstance(value, Mapping):
        if kind == "str":  # YAML has quantities as numbers
            value = {k: str(v) if isinstance(v, (int, float)) else v for k, v in value.items()}
        return {name: _typed(kind, item, f"{where}.{name}") for name, item in value.items()}
    raise ConfigurationError(
        f"{where} has to be {'a list' if is_list else 'an object'}, and is {value!r}."
    )


def _first_fault(error: ValueError) -> str:
    """Return the first thing that is wrong, of what may be a long list."""
    faults = getattr(error, "errors", None)
    if callable(faults):
        first = faults()[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near else ""
