"""Kubernetes, etcd and other tools, built from pinned Go modules and cached.

Each folder under ``modules/`` is a Go module whose go.mod and go.sum pin one program and all its
dependencies. A build lands in ``${XDG_CACHE_HOME:-~/.cache}/evolution-operator/bin/``, in a folder
named by module, version and a digest of the folder's files. If a file changes, the program is built again.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from hack.cluster import ClusterError

CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evolution-operator"
MODULES = Path(__file__).parent / "modules"


@dataclass(frozen=True)
class Module:
    """A Go module of programs: its folder, the dependency that gives the version, its packages.

    ``path`` is None if the folder itself holds the program's source. ``packages`` maps a program's
    name to its Go package. ``stamps`` are Go variables that the linker sets to the version
    (``{version}``, ``{major}``, ``{minor}``).
    """

    folder: str
    path: str | None
    packages: Mapping[str, str]
    stamps: Mapping[str, str] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """The pinned version, for example ``v1.34.4``."""
        if self.path is None:
            return "v0.0.0"
        pins = (MODULES / self.folder / "go.mod").read_text()
        pin = re.search(rf"^(?:require)?\s+{re.escape(self.path)} (v\S+)", pins, re.MULTILINE)
        if pin is None:
            raise ClusterError(f"modules/{self.folder}/go.mod does not require {self.path}")
        return pin[1]

    @property
    def directory(self) -> Path:
        """The cache folder of this module's programs. Its name depends on everything that goes into them."""
        digest = hashlib.sha256(repr(self).encode())
        for path in sorted((MODULES / self.folder).iterdir()):
            digest.update(path.read_bytes())
        return CACHE / "bin" / f"{self.folder}-{self.version}-{digest.hexdigest()[:12]}"

    def linker_flags(self) -> str:
        """Go linker flags: no symbol table, and the version."""
        major, minor = self.version.removeprefix("v").split(".")[:2]
        values = {"version": self.version, "major": major, "minor": minor}
        stamps = [f"-X={name}={value.format_map(values)}" for name, value in self.stamps.items()]
        return " ".join(["-s", "-w", *stamps])


KUBERNETES_COMMANDS = (
    "kube-apiserver",
    "kube-controller-manager",
    "kube-proxy",
    "kube-scheduler",
    "kubectl",
    "kubelet",
)
_ALL = (
    Module(
        folder="kubernetes",
        path="k8s.io/kubernetes",
        packages={name: f"k8s.io/kubernetes/cmd/{name}" for name in KUBERNETES_COMMANDS},
        stamps={
            "k8s.io/component-base/version.gitVersion": "{version}",
            "k8s.io/component-base/version.gitMajor": "{major}",
            "k8s.io/component-base/version.gitMinor": "{minor}",
        },
    ),
    Module("etcd", "go.etcd.io/etcd/server/v3", {"etcd": "go.etcd.io/etcd/server/v3"}),
    Module("actionlint", "github.com/rhysd/actionlint", {"actionlint": "github.com/rhysd/actionlint/cmd/actionlint"}),
    Module("kwok", "sigs.k8s.io/kwok", {"kwok": "sigs.k8s.io/kwok/cmd/kwok"}),
    Module("coredns", "github.com/coredns/coredns", {"coredns": "github.com/coredns/coredns"}),
    Module("minio", "github.com/minio/minio", {"minio": "github.com/minio/minio"}),
    Module("pause", None, {"pause": "."}),
    Module(
        folder="helm",
        path="helm.sh/helm/v4",
        packages={"helm": "helm.sh/helm/v4/cmd/helm"},
        stamps={"helm.sh/helm/v4/internal/version.version": "{version}"},
    ),
)
PROGRAMS: Mapping[str, Module] = {name: module for module in _ALL for name in module.packages}
# Programs that setup-envtest and similar tools may provide.
ENVTEST_PROGRAMS = frozenset(PROGRAMS) & {
    "etcd",
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubectl",
}


def ensure(names: Iterable[str]) -> dict[str, Path]:
    """The path of each named program. Builds it if it is not in the cache.

    A program in the folder that ``KUBEBUILDER_ASSETS`` names is used instead. Its version must be within
    one minor version of the others (Kubernetes version skew policy).

    Raises:
        ClusterError: a name is unknown, Go is not installed, or a build failed.
    """
    return {name: _provided(name) or _cached(name) for name in names}


def program(name: str) -> Path:
    """The path of one program, as by `ensure`."""
    return ensure([name])[name]


def _provided(name: str) -> Path | None:
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if not assets or name not in ENVTEST_PROGRAMS:
        return None
    path = Path(assets) / name
    return path if os.access(path, os.X_OK) else None


def _cached(name: str) -> Path:
    module = PROGRAMS.get(name)
    if module is None:
        raise ClusterError(f"unknown program {name!r}: one of {', '.join(sorted(PROGRAMS))}")
    path = module.directory / name
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(path.parent / ".lock", path.parent.name) as lock:
            if not path.exists():
                _build(module, name, path, lock)
    return path


@contextlib.contextmanager
def _locked(path: Path, what: str) -> Iterator[IO[str]]:
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _say(f"waiting for another build of {what}")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def _build(module: Module, name: str, path: Path, lock: IO[str]) -> None:
    _say(f"building {name} ({module.path or module.folder} {module.version}): minutes the first time")
    part = path.with_name(f".{name}.part")
    started = time.monotonic()
    argv = ["go", "build", "-mod=readonly", "-buildvcs=false", "-trimpath"]
    argv += [f"-ldflags={module.linker_flags()}", "-o", str(part), module.packages[name]]
    try:
        # The build inherits the lock, so it still holds it if it outlives this process.
        subprocess.run(
            argv,
            cwd=MODULES / module.folder,
            env={**os.environ, "CGO_ENABLED": "0", "GOWORK": "off"},
            pass_fds=(lock.fileno(),),
            stdin=subprocess.DEVNULL,
            check=True,
        )
    except FileNotFoundError as error:
        raise ClusterError(f"building {name} needs Go 1.26 or newer on PATH (go.dev/dl)") from error
    except subprocess.CalledProcessError as error:
        raise ClusterError(f"go could not build {name}: see its message above") from error
    part.replace(path)
    _say(f"built {name} in {time.monotonic() - started:.0f} s: {path}")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
