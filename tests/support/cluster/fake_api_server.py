"""An API server in memory: for the calls that the operator makes it answers as the real one does.

It imitates what tests/api checks on a real one: resourceVersions and conflicts, generations, status as a subresource,
finalizers, foreground and background deletion, uid preconditions, and a watch of every kind.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from evolution_operator.controller.kube.apiserver import (
    AlreadyExistsError,
    ConflictError,
    NotFoundError,
    RefusedError,
)

Object = dict[str, Any]
PATH = re.compile(r"/apis?/(?:[^/]+/)?v1(?:alpha1)?/namespaces/([^/]+)/([^/]+)(?:/([^/]+))?(?:/(status|log))?")
FOREGROUND = "foregroundDeletion"


@dataclass(frozen=True)
class WatchEvent:
    """A change of one object, as a watch reports it."""

    kind: str
    type: str
    body: Object


@dataclass
class ApiServer:
    """Objects by kind (`jobs`), namespace and name; `watched` is called with every change."""

    clock: Callable[[], str]
    watched: Callable[[WatchEvent], None] = lambda event: None
    before: Callable[[str, str, str, Any], Callable[[], None]] = lambda *call: lambda: None
    """Called before each call of the operator. Returns a function to call after the call took effect. Both may raise."""
    quota: int | None = None
    """Number of Jobs that a ResourceQuota allows."""
    writes: int = 0
    """Calls of the operator that changed something."""
    _objects: dict[tuple[str, str, str], Object] = field(default_factory=dict)
    _version: int = 0
    _uids: int = 0

    # ---- the operator's calls (evolution_operator.controller.kube.apiserver.ApiServer)

    def call(self, method: str, path: str, body: Any = None, query: Mapping[str, str] | None = None) -> Object:
        """One call, with the faults that `before` injects."""
        matched = PATH.fullmatch(path)
        assert matched, f"no such path: {path}"
        namespace, kind, name, subresource = matched.groups()
        after = self.before(method, kind, name or "", body)
        version = self._version
        match method:
            case "GET" if name is None:
                answer = self._list(kind, namespace, query or {})
            case "GET":
                answer = self.get(kind, namespace, name)
            case "POST":
                answer = self._post(kind, namespace, body)
            case "PATCH":
                answer = self.patch(kind, namespace, name, body, subresource)
            case "DELETE":
                answer = self.delete(kind, namespace, name, body["propagationPolicy"], body["preconditions"]["uid"])
        self.writes += self._version > version
        after()
        return copy.deepcopy(answer)

    def text(self, method: str, path: str, body: Any = None, query: Mapping[str, str] | None = None) -> str:
        """The operator reads only logs as text, and no kubelet serves them here."""
        raise NotFoundError(path)

    def _post(self, kind: str, namespace: str, body: Any) -> Object:
        if kind == "jobs" and self.quota is not None and len(list(self.all("jobs"))) >= self.quota:
            raise RefusedError(f'jobs "{body["metadata"]["name"]}" is forbidden: exceeded quota: few')
        return self.create(kind, namespace, body)

    def _list(self, kind: str, namespace: str, query: Mapping[str, str]) -> Object:
        name, _, value = query.get("labelSelector", "=").partition("=")
        items = [
            item
            for item in self.all(kind)
            if item["metadata"]["namespace"] == namespace
            and (not name or (item["metadata"].get("labels") or {}).get(name) == value)
        ]
        if "fieldSelector" in query:
            items = []
        return {"items": items, "metadata": {"resourceVersion": str(self._version)}}

    # ---- calls of the test and of other controllers, too

    def all(self, kind: str) -> Iterator[Object]:
        """Every object of a kind."""
        return iter([item for (of, _, _), item in self._objects.items() if of == kind])

    def get(self, kind: str, namespace: str, name: str) -> Object:
        """One object. Raises NotFoundError."""
        try:
            return self._objects[kind, namespace, name]
        except KeyError:
            raise NotFoundError(f'{kind} "{name}" not found') from None

    def create(self, kind: str, namespace: str, body: Object) -> Object:
        """A new object. Raises AlreadyExistsError."""
        body = copy.deepcopy(body)
        metadata = body["metadata"]
        if (kind, namespace, metadata["name"]) in self._objects:
            raise AlreadyExistsError(f'{kind} "{metadata["name"]}" already exists')
        self._uids += 1
        metadata |= {"namespace": namespace, "uid": f"uid-{self._uids}", "generation": 1}
        metadata["creationTimestamp"] = self.clock()
        self._objects[kind, namespace, metadata["name"]] = body
        return self._changed("ADDED", kind, body)

    def patch(self, kind: str, namespace: str, name: str, patch: Any, subresource: str | None = None) -> Object:
        """Merge a patch. One that changes nothing makes no new version. Raises NotFoundError, ConflictError."""
        old = self.get(kind, namespace, name)
        version = (patch.get("metadata") or {}).get("resourceVersion", old["metadata"]["resourceVersion"])
        if version != old["metadata"]["resourceVersion"]:
            raise ConflictError(f'{kind} "{name}": the object has been modified')
        if kind == "evolutionruns":
            patch = {part: patch[part] for part in patch if (part == "status") == (subresource == "status")}
        new = merged(old, patch)
        if new == old:
            return old
        if new.get("spec") != old.get("spec"):
            new["metadata"]["generation"] += 1
        self._objects[kind, namespace, name] = new
        if new["metadata"].get("deletionTimestamp") and not new["metadata"].get("finalizers"):
            return self._removed(kind, new)
        return self._changed("MODIFIED", kind, new)

    def delete(self, kind: str, namespace: str, name: str, propagation: str, uid: str | None = None) -> Object:
        """Delete. An object with finalizers only gets a deletionTimestamp. Raises NotFoundError, ConflictError."""
        old = self.get(kind, namespace, name)
        if uid is not None and uid != old["metadata"]["uid"]:
            raise ConflictError(f'{kind} "{name}": the UID in the precondition does not match')
        finalizers = list(old["metadata"].get("finalizers") or [])
        if propagation == "Foreground" and FOREGROUND not in finalizers:
            finalizers.append(FOREGROUND)
        if not finalizers:
            self._removed(kind, old)
            return {"kind": "Status", "status": "Success"}
        stamp = old["metadata"].get("deletionTimestamp") or self.clock()
        return self.patch(kind, namespace, name, {"metadata": {"finalizers": finalizers, "deletionTimestamp": stamp}})

    def remove(self, kind: str, body: Object) -> None:
        """Remove an object, whatever its finalizers."""
        self._removed(kind, body)

    def _removed(self, kind: str, body: Object) -> Object:
        metadata = body["metadata"]
        del self._objects[kind, metadata["namespace"], metadata["name"]]
        return self._changed("DELETED", kind, copy.deepcopy(body))

    def _changed(self, type_: str, kind: str, body: Object) -> Object:
        self._version += 1
        body["metadata"]["resourceVersion"] = str(self._version)
        self.watched(WatchEvent(kind, type_, copy.deepcopy(body)))
        return body


def merged(old: Any, patch: Any) -> Any:
    """An object after a merge patch (RFC 7386)."""
    if not isinstance(patch, Mapping):
        return copy.deepcopy(patch)
    new = dict(old) if isinstance(old, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            new.pop(name, None)
        else:
            new[name] = merged(new.get(name), value)
    return copy.deepcopy(new)
