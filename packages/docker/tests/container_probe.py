"""Sees kernels' containers past the provisioner, through a client of its own."""

import contextlib
import functools
import json

import docker
from docker.errors import APIError, NotFound

from kernel_provisioner_core.conformance import KernelIdentity, Probe


class ContainerProbe(Probe):
    """Asks an engine for the containers that carry a kernel's id."""

    def __init__(self, url):
        self._url = url
        self._killed = {}

    @functools.cached_property
    def _api(self):
        return docker.APIClient(base_url=self._url, version="auto")

    def is_running(self, kernel: KernelIdentity):
        killed = self._killed.pop(kernel.kernel_id, None)
        if killed is not None:
            # a container may run again already, started by a restarter
            if killed.isdisjoint(self._runs(kernel)):
                return False
            self._killed[kernel.kernel_id] = killed
        return any(
            self._kernels_process(c["Id"])
            for c in self._containers(kernel)
            if c["State"] == "running"
        )

    def left(self, kernel: KernelIdentity):
        return [f"container {c['Names'][0]} ({c['State']})" for c in self._containers(kernel)]

    def exposed(self, kernel: KernelIdentity):
        texts = []
        for container in self._containers(kernel):
            texts.append(
                ("docker inspect", json.dumps(self._api.inspect_container(container["Id"])))
            )
            for line in self._top(container["Id"]):
                texts.append(("docker top", " ".join(line)))
        return texts

    def kill(self, kernel: KernelIdentity):
        containers = [c["Id"] for c in self._containers(kernel) if c["State"] == "running"]
        self._killed[kernel.kernel_id] = self._runs(kernel)
        for container in containers:
            self._api.kill(container, signal="KILL")
        return bool(containers)

    def remove(self, kernel: KernelIdentity):
        for container in self._containers(kernel):
            try:
                self._api.remove_container(container["Id"], force=True, v=True)
            except NotFound:
                continue
            except APIError as error:
                if error.status_code != 409:  # it is being removed already
                    raise

    def _runs(self, kernel):
        states = []
        for container in self._containers(kernel):
            with contextlib.suppress(NotFound):
                states.append(self._api.inspect_container(container["Id"])["State"])
        return {state["StartedAt"] for state in states if state["Running"]}

    def _containers(self, kernel):
        label = f"kernel-provisioner.kernel-id={kernel.kernel_id}"
        return self._api.containers(all=True, filters={"label": [label]})

    def _top(self, container):
        try:
            return self._api.top(container)["Processes"] or []
        except (APIError, ValueError):  # it has ended meanwhile; Podman says so by an empty answer
            return []

    def _kernels_process(self, container):
        return any("connection.json" in " ".join(line) for line in self._top(container))
