"""Fake results of stages: a store of published stages, and the report with which a Pod ends."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evolution_jobs.contract.errors import EXIT_TRANSIENT
from evolution_jobs.contract.keys import resolve_keys
from evolution_jobs.contract.manifest import canonical_digest
from evolution_jobs.contract.stage import Node

Object = dict[str, Any]


@dataclass
class Results:
    """Published stages by key, with prepare's content digests."""

    store: dict[str, dict[str, str]] = field(default_factory=dict)
    edition: int = 0
    """Edition of a data source that is not pinned. In another edition, prepare finds other contexts."""
    _rows: dict[str, set[int]] = field(default_factory=dict)

    def withdraw(self, key: str) -> None:
        """Withdraw a published result, as if it were corrupt or deleted."""
        self.store.pop(key, None)
        self._rows.pop(key, None)

    def clean_up(self, spec: Mapping[str, Any]) -> tuple[int, Object]:
        """Delete the results that the cleanup of a run names. Returns exit code and report."""
        for key in spec["keys"]:
            self.withdraw(key)
        return 0, {"reason": "Completed"}

    def work(self, spec: Mapping[str, Any], index: int) -> tuple[int, Object]:
        """Do the work of the stage `spec`, or find that it cannot. Returns exit code and report of shard `index`."""
        key = spec["key"]
        missing = [source["stage"] for source in spec.get("inputs", {}).values() if source["key"] not in self.store]
        if missing:
            return EXIT_TRANSIENT, {"reason": "InputMissing", "message": "it is gone", "corrupt": missing[0]}
        cached = key in self.store
        if not cached:
            rows = self._rows.setdefault(key, set())
            rows.add(index)
            if len(rows) < spec["shard"]["count"]:
                return 0, {"reason": "ShardCompleted"}
            self.store[key] = self._contents() if spec["kind"] == "prepare" else {}
        report: Object = {"reason": "Cached" if cached else "Completed", "key": key, "seconds": 5.0}
        if spec["kind"] == "evaluate":
            report["metrics"] = {"distinct2": 0.5 + spec["iteration"]}
        if spec["kind"] == "judge":
            report["metrics"] = {"judge_vs_human": 50.0 + spec["iteration"]}
        if spec["kind"] == "prepare":
            report |= self._found(spec["graph"], self.store[key])
        return 0, report

    def _contents(self) -> dict[str, str]:
        names = ("model", "train", "validation", "contexts", "test")
        return {name: canonical_digest([name, self.edition if name == "contexts" else 0]) for name in names}

    def _found(self, graph: list[Object], contents: dict[str, str]) -> Object:
        keys = resolve_keys([Node.model_validate(node) for node in graph], contents)
        published = [name for name, key in keys.items() if key in self.store]
        figures = {name: {"distinct2": 0.5 + int(name[9:])} for name in published if name.startswith("evaluate")}
        return {"contents": contents, "published": published, "figures": figures}
