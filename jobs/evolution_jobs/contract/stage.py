"""The spec of a stage: one JSON document that is complete in itself."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .document import Document
from .locations import Storage
from .settings import ReflectionSettings, SettingsOfKind

StageKind = Literal["prepare", "sft", "generate", "reflect", "dpo", "evaluate", "prewarm", "judge"]

BLOCKS = {
    "prepare": "prepare",
    "sft": "sft",
    "generate": "generation",
    "reflect": "reflection",
    "dpo": "dpo",
    "evaluate": "evaluation",
    "prewarm": "modelCache",
    "judge": "judge",
}
"""Stage kind to the run's block that configures it."""

SHARDED: frozenset[str] = frozenset({"generate", "reflect", "evaluate", "prewarm", "judge"})
"""Kinds with rows that several shards can share. Of prewarm, each shard has one row: its node."""

OBSERVING: frozenset[str] = frozenset({"evaluate", "judge"})
"""Kinds that only observe a model. No round waits for them, unless a rule may end the run there."""

TRAINED: frozenset[str] = frozenset({"sft", "dpo"})
"""Kinds that several processes can train together."""

STAGE_VERSION: Literal["evolution.run/stage/v1"] = "evolution.run/stage/v1"


def kind_of(stage: str) -> str:
    """The kind in a stage's id: `dpo` of `dpo-2`."""
    return stage.partition("-")[0]


class RunRef(Document):
    """The run that a stage belongs to."""

    namespace: str
    name: str
    uid: str
    """Distinguishes runs that had the same name one after the other."""


class Node(Document):
    """One stage of a run's graph, before anything has run."""

    id: str
    """`prepare`, `sft`, or kind and iteration: `dpo-2`."""
    kind: StageKind
    iteration: int | None = None
    """0 for M0; unset for prepare."""
    settings: SettingsOfKind
    """Method settings, those included that are not part of the key."""
    seed: int
    inputs: dict[str, str] = {}
    """Input name to its source: `<stage id>/<output>`."""
    after: list[str] = []
    """Ids of stages that must end first, although this one reads nothing of theirs."""

    @property
    def upstream(self) -> frozenset[str]:
        """Ids of the stages that must end before this one starts."""
        return frozenset([*(source.partition("/")[0] for source in self.inputs.values()), *self.after])


class Input(Document):
    """An input: a named output of a published stage."""

    stage: str
    """Id of the stage that makes it."""
    key: str
    """That stage's key: its manifest is `stages/<key>/manifest.json`."""
    output: str
    """Name of the output in that manifest."""


class Shard(Document):
    """The rows of one process: row i belongs to it if i modulo `count` is `index`."""

    index: Annotated[int, Field(ge=0)] = 0
    count: Annotated[int, Field(ge=1)] = 1


Sharding = Literal["none", "full"]
"""Whether each process that trains holds the whole base model, or only its part of it."""


class RankLayout(Document):
    """How many processes train together. torch calls each of them a rank."""

    processes: Annotated[int, Field(ge=1)] = 1
    """Processes on each node."""
    nodes: Annotated[int, Field(ge=1)] = 1
    sharding: Sharding = "none"

    @property
    def sharded(self) -> bool:
        """Whether the base model is spread over the processes."""
        return self.sharding == "full" and self.count > 1

    @property
    def count(self) -> int:
        """Processes on all nodes."""
        return self.processes * self.nodes


class Ahead(Document):
    """A reflect stage whose rows a generate stage makes as well, while the model is loaded and knows each history.

    It decides nothing of generate's own result, so it is no part of generate's key.
    """

    stage: str
    """The reflect stage's id."""
    key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """The reflect stage's key: the rows go below it."""
    settings: ReflectionSettings
    seed: int


class StageSpec(Document):
    """Everything that a stage's process needs to know."""

    version: Literal["evolution.run/stage/v1"] = STAGE_VERSION
    run: RunRef
    stage: str
    """The node's id."""
    kind: StageKind
    iteration: int | None = None
    key: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    attempt: Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$", max_length=63)]
    """Unique among all attempts at this key that may ever write, because files go under it."""
    settings: SettingsOfKind
    seed: int
    inputs: dict[str, Input] = {}
    storage: Storage
    shard: Shard = Shard()
    ranks: RankLayout = RankLayout()
    ahead: Ahead | None = None
    """For generate: the reflect stage that reads its responses, if this stage is to make that stage's rows as well."""
    graph: list[Node] = []
    """The whole run, for prepare only: it derives every key and reports which ones are published."""
