"""What a stage leaves: files, and a manifest, written last, that names each file by digest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import Field

from .document import Document
from .figures import Interval
from .stage import RunRef, StageKind

MANIFEST_VERSION: Literal["evolution.run/manifest/v1"] = "evolution.run/manifest/v1"
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
StageId = Annotated[str, Field(pattern=r"^[a-z]+(-[0-9]+)?$")]
"""Id of a stage in its run's graph: `dpo-2`. Readers name files and directories by it, and a manifest may be foreign."""
Intervals = dict[str, Interval]
"""Name of a figure to its 95 % interval."""
Phase = Literal["pull", "import", "fetch", "load", "work"]
"""What an attempt spends its time on.

- `pull`: the node attaches volumes, pulls the image and starts the container.
- `import`: Python starts and imports the libraries; processes that train together find each other.
- `fetch`: the storage is asked and inputs are fetched; waiting for another run that computes the same is included.
- `load`: models are loaded, up to the first step. A model of the hub that no cache has is downloaded here. prepare, prewarm
  and a shard that only merges have none.
- `work`: the rest, with the upload of the result.
"""


class File(Document):
    """One stored file."""

    path: str
    """Relative to the output's own root, with `/`: `adapter_model.safetensors`."""
    location: str
    """Relative to the storage URI: `stages/<key>/attempts/<attempt>/adapter/adapter_model.safetensors`."""
    sha256: Digest
    size: int
    """Bytes."""


class Output(Document):
    """A named set of files, addressed by content."""

    digest: Digest
    files: list[File]
    reference: str | None = None
    """Location of content that is not copied into the store: a pinned `hf://owner/model@commit`, `pvc://...`."""


class Manifest(Document):
    """A finished stage. Published by a conditional put at `stages/<key>/manifest.json`: the first attempt wins."""

    version: Literal["evolution.run/manifest/v1"] = MANIFEST_VERSION
    key: Digest
    kind: StageKind
    stage: StageId
    iteration: int | None = None
    run: RunRef
    attempt: str
    outputs: dict[str, Output]
    inputs: dict[str, Digest] = {}
    """Input name to the digest of the content that was read."""
    settings: dict[str, Any]
    seed: int
    code: dict[str, str]
    """Versions of this project, of the stage's code, and of the libraries that decide the result."""
    counts: dict[str, int] = {}
    """Rows read, kept, and dropped under each reason (`dropped.<reason>`)."""
    metrics: dict[str, float] = {}
    intervals: Intervals = {}
    """95 % intervals of metrics, with whole dialogues as the unit."""
    details: dict[str, Any] = {}
    """More for readers: loss curve, metric signatures, reference digest."""
    notes: list[str] = []
    """What a user should know of a stage that succeeded, one sentence each. The run's status shows them."""
    seconds: float
    """Wall time of the process that published, from the moment its inputs were there."""
    phases: dict[str, float] = {}
    """Seconds of that process by `Phase`, from the moment the kubelet wrote its spec; without a Pod, from its own start, and `pull` is missing."""
    tokens: int = 0
    """Tokens generated or trained on, padding not counted."""
    gpus: int = 0
    """GPUs that process held."""
    gpu_joules: float | None = None
    """Energy of these GPUs in the `seconds`; None where it is not known, and where other processes shared the work."""

    @property
    def files(self) -> list[File]:
        """Every file that it names."""
        return [file for output in self.outputs.values() for file in output.files]

    @property
    def contents(self) -> dict[str, str]:
        """Output name to content digest."""
        return {name: output.digest for name, output in self.outputs.items()}

    @property
    def main_digest(self) -> str | None:
        """Digest of the stage's main output: its first."""
        return next(iter(self.contents.values()), None)


class Report(Document):
    """How a stage's process ended: its termination message, at most 4096 bytes (Kubernetes' limit)."""

    reason: str
    """`Completed`, `Cached`, `ShardCompleted`, or the error's reason."""
    message: str = ""
    notes: list[str] = []
    """The manifest's."""
    key: str | None = None
    metrics: dict[str, float] = {}
    intervals: Intervals = {}
    """The manifest's."""
    counts: dict[str, int] = {}
    tokens: int = 0
    """The manifest's, of a stage that this process has computed."""
    seconds: float = 0
    """Wall time of the process. If it was cached, this includes waiting for another run."""
    contents: dict[str, str] = {}
    """Only of prepare: output name to content digest. Every key of the run follows from these."""
    published: list[str] = []
    """Only of prepare: ids of the stages that are published already."""
    figures: dict[str, dict[str, float]] = {}
    """Only of prepare: figures of the published stages by stage id. If they do not fit, the stage is not in `published` either."""
    figure_intervals: dict[str, Intervals] = {}
    """Only of prepare: their intervals."""
    digest: str | None = None
    """Digest of the stage's main output: its first."""
    corrupt: str | None = None
    """Id of a stage that must run again first, because this one found its result missing or corrupt."""


class Record(Document):
    """`runs/<namespace>/<name>/<uid>/...`: a run uses a stage or a model. Written once.

    Cleanup needs only its location (`keys.recorded_prefix`). The content is for people who look at a bucket.
    """

    run: RunRef
    stage: str
    """The stage's id; for a model, the stage that copied it."""
    kind: StageKind
    iteration: int | None = None


class Claim(Document):
    """`stages/<key>/claims/<number>.json`: a run computes this stage now, and rewrites its claim while it does."""

    run: RunRef
    holder: str
    """Owner of the claim: attempts of one holder share it."""
    attempt: str
    """The attempt that wrote it last."""
    token: str
    """A new one at each write, so that every renewal is a change."""


def content_digest(files: Iterable[tuple[str, str]]) -> str:
    """Digest of a set of (path, sha256) pairs, in any order."""
    return canonical_digest(sorted(files))


def canonical_digest(value: Any) -> str:
    """SHA-256 of a JSON value in one canonical form (sorted keys, no white space, UTF-8), as hex."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
