"""`DockerProvisioner`: the kernel in a container."""

from __future__ import annotations

import functools
import os
import re
import signal
import threading
import time
from typing import Any

import traitlets

from kernel_provisioner_core import (
    BackendUnavailableError,
    CommandNotFoundError,
    ConfigurationError,
    KernelConnectionInfo,
    KernelExit,
    KernelNotFoundError,
    LaunchError,
)
from kernel_provisioner_core.remote import Handle, LaunchRequest, RemoteProvisioner
from kernel_provisioner_core.watch import Watch
from kernel_provisioner_docker.client import Engine, EngineAddress, EngineWatch, Image
from kernel_provisioner_docker.containers import (
    CONNECTION_DIR,
    CONNECTION_FILE,
    CONTAINER_PORTS,
    ContainerOptions,
    FoundKernelspec,
    Mount,
    connection_archive,
    container_body,
    container_name,
    find_kernelspecs,
    home_of,
    kernelspec_dirs,
    owner_of,
    parse_mounts,
    path_on_host,
)

__all__ = ["DockerProvisioner"]

_PROGRESS_PAUSE = 1.0  # seconds between two lines about a pull

# What an init prints when it cannot run the command: Docker's tini, Podman's catatonit.
_INIT_SAYS = re.compile(
    r"^(\[FATAL tini .*exec .* failed|(ERROR \(catatonit.*)?failed to exec pid1)", re.M
)


class DockerProvisioner(RemoteProvisioner):
    """Runs a kernel in a container of any image that has one, on any engine that speaks Docker's API."""

    # What the conformance suite may ask for beyond its core; resolve-path and working-directory with a mount of it.
    conformance_capabilities = (
        "interrupt",
        "interrupt-children",
        "interrupt-wrapped",
        "signals",
        "exit-codes",
        "exit-signals",
        "kills-descendants",
        "persistence",
        "resolve-path",
        "holds-ports",
        "captures-output",
        "awaits-readiness",
        "rejects-unknown-options",
        "working-directory",
        "filters-environment",
        "encryption",
    )

    image = traitlets.Unicode(
        config=True,
        help="The image to run; any that has the kernel that `argv` names. It needs nothing else. No default: it "
        "has to be given.",
    ).tag(example="quay.io/jupyter/scipy-notebook:latest")

    pull_policy = traitlets.Enum(
        ["always", "missing", "never"],
        "missing",
        config=True,
        help="When the image is pulled: `always` at each start of a kernel (not at restarts), `missing` if the "
        "engine does not have it, `never`. Default: missing, as `docker run` does.",
    ).tag(example="never")

    working_dir = traitlets.Unicode(
        config=True,
        help="The kernel's working directory in the container. Default: the notebook's directory if a mount "
        "leads there, else the image's own.",
    ).tag(example="/home/jovyan/work")

    user = traitlets.Unicode(
        config=True,
        help="The user that the kernel runs as: a name of the image or a number, with `:group` if wanted. Default: the "
        "image's own.",
    ).tag(example="1000:100")

    mounts = traitlets.List(
        traitlets.Union([traitlets.Unicode(), traitlets.Dict()]),
        config=True,
        help="What is mounted into the container: `cwd` (the notebook's directory, under its own path), SOURCE:TARGET "
        "or SOURCE:TARGET:ro (a source with / ~ . or {cwd} in front is a directory of the engine's host, else a "
        "volume), or an object with type (bind, volume, tmpfs), source, target, read_only, size. Default: nothing.",
    ).tag(example=["cwd", "~/data:/data:ro"])

    resources = traitlets.Dict(
        config=True,
        help="What the kernel may use: cpu (cores), memory (bytes, or text such as 2g), gpu (a number, `all`, or "
        "device ids). Default: no limits, no GPU.",
    ).tag(example={"cpu": 2, "memory": "4g", "gpu": 1})

    network = traitlets.Unicode(
        config=True,
        help="The engine's network that the container joins. Default: the engine's own default.",
    ).tag(example="my-network")

    labels = traitlets.Dict(
        value_trait=traitlets.Unicode(),
        key_trait=traitlets.Unicode(),
        config=True,
        help="Labels for the container, besides our own. Default: none.",
    ).tag(example={"team": "physics"})

    platform = traitlets.Unicode(
        config=True,
        help="The platform of the image, where it exists for several. Default: the engine's.",
    ).tag(example="linux/amd64")

    init = traitlets.Bool(
        True,
        config=True,
        help="Whether the engine's init is PID 1: it passes interrupts on to all that the kernel has started, and "
        "reaps it. Default: true.",
    ).tag(example=False)

    cap_drop = traitlets.List(
        traitlets.Unicode(),
        config=True,
        help="Capabilities that the container does not get. Default: none besides the engine's choice, since images "
        "differ in what they need.",
    ).tag(example=["ALL"])

    read_only = traitlets.Bool(
        False,
        config=True,
        help="Whether the container's root file system is read-only; the kernel needs a tmpfs on /tmp and on its home "
        "then. Default: false.",
    ).tag(example=True)

    security_opt = traitlets.List(
        traitlets.Unicode(),
        ["no-new-privileges"],
        config=True,
        help="Security options of the engine. Default: no-new-privileges, so that nothing in the image can gain "
        "rights.",
    ).tag(example=["no-new-privileges", "seccomp=unconfined"])

    extra_hosts = traitlets.Dict(
        value_trait=traitlets.Unicode(),
        key_trait=traitlets.Unicode(),
        config=True,
        help="Names for the container's /etc/hosts. Default: none.",
    ).tag(example={"db": "10.0.0.5"})

    registry_auth = traitlets.Dict(
        value_trait=traitlets.Unicode(),
        key_trait=traitlets.Unicode(),
        config=True,
        help="Where the registry's user name and password are: `username`, and in `password_env` the name of a "
        "variable of the server's environment. Default: what `docker login` has stored.",
    ).tag(example={"username": "me", "password_env": "REGISTRY_PASSWORD"})

    docker_host = traitlets.Unicode(
        config=True,
        help="The engine's address (unix://, tcp://). Default: DOCKER_HOST, else the docker context, else the default "
        "socket.",
    ).tag(example="unix:///run/podman/podman.sock")

    docker_context = traitlets.Unicode(
        config=True,
        help="The docker context that says where the engine is. Default: the current one.",
    ).tag(example="build-server")

    tls_dir = traitlets.Unicode(
        config=True,
        help="A directory with ca.pem, cert.pem and key.pem for an engine behind TLS. Default: DOCKER_CERT_PATH if "
        "DOCKER_TLS_VERIFY is set.",
    ).tag(example="~/.docker/build-server")

    extra_create = traitlets.Dict(
        config=True,
        help="What the options do not have: it is merged into the body of the engine's `POST /containers/create`. "
        "Default: nothing.",
    ).tag(example={"HostConfig": {"ShmSize": 1073741824}})

    # -- the contract ---------------------------------------------------------------------------

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Prepare as every remote kernel is; a kernel on a remote engine has to encrypt.

        Raises:
            ConfigurationError: No image is given, or the engine is remote and the kernel cannot encrypt.
        """
        self._check_options()
        return await super().pre_launch(**kwargs)

    def resolve_path(self, path: str) -> str | None:
        """Return where a path of the container is on the server, through the bind mounts; None outside them."""
        return path_on_host(path, self._mounts, self._kernel_dir)

    @classmethod
    def find_kernelspecs(cls, options: dict[str, Any]) -> list[FoundKernelspec]:
        """Return the kernelspecs of an image, for `jupyter provisioner install`; pulls it if need be.

        Nothing is started: a container is made, read and removed.

        Args:
            options: The options, as kernel.json's `config` has them.

        Raises:
            ConfigurationError: No image is given.
            LaunchError: The image cannot be had.
            BackendUnavailableError: The engine cannot be reached.
        """
        return cls(**options)._find_kernelspecs()

    # -- the verbs ------------------------------------------------------------------------------

    def create(self, request: LaunchRequest) -> Handle:
        """Pull the image if need be, create the container, and put the connection file into it."""
        image = self._ensure_image(request.cancelled)
        self._mounts = parse_mounts(self.mounts, request.cwd)
        self._kernel_dir = self.working_dir or self._mounted_cwd(request.cwd) or image.working_dir
        options = ContainerOptions(
            image=self.image,
            user=self.user,
            working_dir=self._kernel_dir,
            mounts=self._mounts,
            resources=self.resources,
            network=self.network,
            labels=self.labels,
            init=self.init,
            cap_drop=tuple(self.cap_drop),
            read_only=self.read_only,
            security_opt=tuple(self.security_opt),
            extra_hosts=self.extra_hosts,
            extra_create=self.extra_create,
        )
        info = self.connection_info
        published = {name: int(info[name]) for name in CONTAINER_PORTS}  # type: ignore[literal-required]
        body = container_body(request, options, published, info["ip"])
        name = container_name(request.kernel_id)
        try:
            container = self._engine.create(body, name, self.platform)
        except BackendUnavailableError:
            self._engine.remove_later(name)  # it may have been made nevertheless
            raise
        try:
            self._put_connection_file(container, request, self.user or image.user)
        except BaseException:
            self._remove(container)
            raise
        return {
            "container": container,
            "engine": self._engine.address.url,
            "image": image.id,
            "options": self._options(),
            "working_dir": self._kernel_dir,
        }

    def is_current(self, handle: Handle, request: LaunchRequest) -> bool:
        """Return whether the container is of the image that the name leads to now, with the options as they are."""
        if handle["options"] != self._options():
            return False
        image = self._engine.image(self.image)
        return image is None or image.id == handle["image"]

    def start(self, handle: Handle) -> None:
        """Start the container."""
        self._engine.start(handle["container"])

    def watch(self, handle: Handle) -> tuple[Watch, str]:
        """Return the engine's watch."""
        engine = self._engine
        return EngineWatch.of(engine.address, lambda: EngineWatch(engine)), handle["container"]

    def signal(self, handle: Handle, signum: int) -> None:
        """Send a signal: through the init to the kernel's group, or by a command beside the kernel."""
        container = handle["container"]
        if signum == 9 or (self.init and not self._engine.is_podman):
            self._engine.kill(container, signum)
        else:
            self._signal_by_command(container, signum)

    def remove(self, handle: Handle) -> None:
        """Remove the container; if the engine is away, once it is back."""
        self._remove(handle["container"])

    def logs(self, handle: Handle, tail: int) -> str:
        """Return what the container printed."""
        return self._engine.logs(handle["container"], tail)

    def attach(self, handle: Handle) -> None:
        """Check that the container runs."""
        if self._engine.ended(handle["container"]) is not None:
            raise KernelNotFoundError(
                f"The kernel's container {handle['container'][:12]} has ended.",
                hint="Start a new kernel.",
            )
        self._kernel_dir = handle.get("working_dir", "")

    def kernel_connection(self, info: KernelConnectionInfo) -> dict[str, Any]:
        """Return what the kernel binds: all addresses of its own network namespace, our fixed ports."""
        return {"ip": "0.0.0.0", **CONTAINER_PORTS}

    @property
    def connection_file_there(self) -> str:
        """The connection file's path in the container."""
        return CONNECTION_FILE

    # -- steps ----------------------------------------------------------------------------------

    _mounts: tuple[Mount, ...] = ()
    _kernel_dir = ""

    @functools.cached_property
    def _engine(self) -> Engine:
        return _engine_at(EngineAddress.find(self.docker_host, self.docker_context, self.tls_dir))

    def _check_options(self) -> None:
        if not self.image:
            raise ConfigurationError(
                "The option `image` is missing.",
                hint='Give it under "config" in kernel.json, or by `--set image=...`.',
            )
        if not self._engine.address.is_local:
            raise ConfigurationError(
                f"The engine {self._engine.address.url} is on another machine, which is not supported yet.",
                hint="Use an engine on this machine.",
            )

    def _ensure_image(self, cancelled: threading.Event) -> Image:
        image = None if self.pull_policy == "always" else self._engine.image(self.image)
        if image is None and self.pull_policy != "never":
            self.report_progress(f"pulling {self.image}")
            self._engine.pull(
                self.image,
                platform=self.platform,
                auth=self._auth(),
                progress=_seldom(self.report_progress),
                cancelled=cancelled,
            )
            image = self._engine.image(self.image)
        if image is None:
            raise LaunchError(
                f"The engine does not have the image {self.image!r}, and pull_policy is {self.pull_policy!r}.",
                hint="Build or load it, or set pull_policy to missing.",
            )
        return image

    def _remove(self, container: str) -> None:
        try:
            self._engine.remove(container)
        except BackendUnavailableError:
            self._engine.remove_later(container)
            raise

    def _options(self) -> dict[str, Any]:
        """Return what the container was made from, in order to see whether it has changed."""
        names = DockerProvisioner.class_own_traits(config=True)
        return {name: getattr(self, name) for name in sorted(names)}

    def _explain_death(self, ended: KernelExit, output: str) -> LaunchError:
        """Say what the init's words mean, which is all that is heard of a command that cannot be run."""
        error = super()._explain_death(ended, output)
        command = self._request.argv[0] if self._request is not None else ""
        if _INIT_SAYS.search(output) is None:
            if ended.cause == "out of memory":
                error.hint = "Give it more: `resources.memory`."
            return error
        if "exec format error" in output.lower():
            return LaunchError(
                f"The image {self.image!r} is for another architecture: its {command!r} does not run here.",
                hint="Take an image for the engine's architecture, or set `platform`.",
                kernel_id=self.kernel_id,
                output=output,
            )
        return CommandNotFoundError(
            f"The kernel's command {command!r} is not in the image {self.image!r}, or is no program.",
            hint="Correct `argv` in kernel.json, or take an image that has the kernel.",
            kernel_id=self.kernel_id,
            output=output,
        )

    def _find_kernelspecs(self) -> list[FoundKernelspec]:
        self._check_options()
        image = self._ensure_image(threading.Event())
        body = {"Image": self.image, "Entrypoint": [""], "Cmd": ["true"]}
        container = self._engine.create(body, "", self.platform)
        try:
            home = home_of(self.user or image.user, self._text(container, "/etc/passwd"))
            files: dict[str, bytes] = {}
            for folder in kernelspec_dirs(image.env, home):
                files = {**self._engine.files(container, folder), **files}
            return find_kernelspecs(files)
        finally:
            self._remove(container)

    def _auth(self) -> dict[str, str] | None:
        if not self.registry_auth:
            return None
        variable = self.registry_auth.get("password_env", "")
        if variable not in os.environ:
            raise ConfigurationError(
                f"registry_auth names the variable {variable!r}, which the server's environment does not have.",
                hint="Set it where the server is started.",
            )
        return {
            "username": self.registry_auth.get("username", ""),
            "password": os.environ[variable],
        }

    def _mounted_cwd(self, cwd: str) -> str:
        """Return the notebook's directory as the container sees it, or "" if no mount leads there."""
        for mount in self._mounts:
            if mount.type == "bind" and mount.source == cwd:
                return mount.target
        return ""

    def _put_connection_file(self, container: str, request: LaunchRequest, user: str) -> None:
        name, _, group = user.partition(":")
        passwd = groups = ""
        if (name and name not in ("0", "root")) or group:
            passwd = self._text(container, "/etc/passwd")
            groups = self._text(container, "/etc/group") if group and not group.isdecimal() else ""
        uid, gid = (
            (0, 0) if name in ("", "0", "root") and not group else owner_of(user, passwd, groups)
        )
        where, directory = (
            (CONNECTION_DIR, ".") if self.read_only else ("/", CONNECTION_DIR.strip("/"))
        )
        archive = connection_archive(request.connection_text, uid, gid, directory=directory)
        self._engine.put(container, where, archive)

    def _text(self, container: str, path: str) -> str:
        return b"".join(self._engine.files(container, path).values()).decode(errors="replace")

    def _signal_by_command(self, container: str, signum: int) -> None:
        name = signal.Signals(signum).name.removeprefix("SIG")
        code, output = self._engine.run(
            container, ["/bin/sh", "-c", _SIGNAL_SCRIPT, "sh", name, CONNECTION_FILE]
        )
        if code == 3:
            raise KernelNotFoundError("The kernel's process is not in its container.")
        if code != 0:
            raise LaunchError(
                f"The kernel could not be signalled by a command in its container: {output.strip() or code}.",
                hint='Set `init` to true, or "interrupt_mode": "message" in kernel.json.',
            )


# $1 is the signal, $2 the connection file. Signals the processes that name the file in their command line, and all
# their descendants, found through /proc; exit 3 if there is none. An init names it too, and would pass the signal on.
_SIGNAL_SCRIPT = r"""
found=
for d in /proc/[0-9]*; do
  p=${d#/proc/}; [ "$p" = $$ ] && continue
  if tr '\0' '\n' <"$d/cmdline" 2>/dev/null | grep -qxF -- "$2"; then found="$found $p"; fi
done
case $found in ' 1 '*) found=${found# 1};; esac
[ -n "$found" ] || exit 3
all=$found; next=$found
while [ -n "$next" ]; do
  new=
  for d in /proc/[0-9]*; do
    read -r line <"$d/stat" 2>/dev/null || continue
    rest=${line##*) }; set -- "$1" "$2" $rest; parent=$4; p=${d#/proc/}
    for q in $next; do
      if [ "$parent" = "$q" ]; then case " $all " in *" $p "*) ;; *) new="$new $p";; esac; fi
    done
  done
  all="$all$new"; next=$new
done
for p in $all; do kill -s "$1" "$p" 2>/dev/null; done
exit 0
"""


@functools.cache
def _engine_at(address: EngineAddress) -> Engine:
    return Engine(address)


def _seldom(report: Any) -> Any:
    """Pass on one message a second at most."""
    last = 0.0

    def maybe(message: str) -> None:
        nonlocal last
        if time.monotonic() - last >= _PROGRESS_PAUSE:
            last = time.monotonic()
            report(message)

    return maybe
