"""prepare: fetch every data source once, check and preprocess it, split by conversation, refuse leaks, pin the model.

All later keys depend on its outputs, so the outputs depend only on the sources' content, the settings and the seed
(arXiv 2505.16610, section 3: preprocessing, the 9:1 split, contexts with at least 3 turns of history).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from ..chat.trial import spelled
from ..contract.document import Document
from ..contract.settings import PrepareSettings
from ..contract.workspace import Result, Workspace
from ..data.gather import gather
from ..models.resolve import Resolved, ResolvedOther, resolve
from ..models.reward import resolve_reward
from ..models.sentence import resolve_sentence
from .jsonl import write_rows


def run(workspace: Workspace) -> Result:
    """Outputs `train`, `validation`, `contexts`, `test` and `model`; `replay`, `reward-model` and `sentence-model` if the run
    has them.

    Raises PermanentError `DataMissing`, `DataMalformed`, `DataEmpty`, `DataLeak`, `LabelsMissing`, `ChecksumMismatch` and
    those of models.resolve, models.reward, models.sentence, store.data_sources and models.hub; TransientError if a source cannot be
    reached now.
    """
    spec = workspace.spec
    settings = spec.settings
    assert isinstance(settings, PrepareSettings)
    steps = _Steps(workspace, settings)
    longest = settings.model_use.longest_prompt
    data = gather(
        *(settings, spec.storage, workspace.scratch, spec.seed, workspace.check_stop, steps.done, longest),
        labels=settings.labels or (),
        optional_labels=settings.optional_labels or (),
    )
    steps.done()
    model = resolve(settings.base_model, spec.storage, workspace.scratch, settings.model_use)
    models: dict[str, Resolved | ResolvedOther] = {"model": model}
    if settings.reward:
        models["reward-model"] = resolve_reward(settings.reward, spec.storage, workspace.scratch)
    if settings.sentence_model:
        models["sentence-model"] = resolve_sentence(settings.sentence_model, spec.storage, workspace.scratch)
    workspace.check_stop()

    rows: dict[str, Iterable[Document]] = {"train": data.train, "validation": data.validation}
    if data.replay:
        rows["replay"] = data.replay
    rows |= {"contexts": data.asked, "test": data.tested}
    outputs = {name: workspace.scratch / f"{name}.jsonl" for name in rows}
    counts = data.counts
    counts.update({name: write_rows(outputs[name], each) for name, each in rows.items()})
    met, notes = spelled(model.chats, data.texts())
    steps.done()
    return Result(
        outputs=outputs | {name: each.files for name, each in models.items() if each.files},
        references={name: each.reference for name, each in models.items() if each.reference},
        copied_models=frozenset(name for name, each in models.items() if not each.reference),
        counts={**counts, **met},
        notes=[*model.notes, *notes, *_unseen(data.details.get("neverTrainedOn", []))],
        details={
            **data.details,
            "model": {"uri": settings.base_model.uri, "reference": model.reference},
            **_reward_details(settings, models.get("reward-model")),
            **_sentence_details(settings, models.get("sentence-model")),
        },
    )


def _unseen(sets: Sequence[str]) -> list[str]:
    if not sets:
        return []
    words = f"test set{'s' * (len(sets) > 1)} {', '.join(sets)}: never trained on"
    return [f"{words}, so the figures there show how well the models generalise to other data (metrics.json, by set)"]


def _reward_details(settings: PrepareSettings, model: Resolved | ResolvedOther | None) -> dict[str, Any]:
    if settings.reward is None or model is None:
        return {}
    return {"rewardModel": {"uri": settings.reward.model.uri, "reference": model.reference}}


def _sentence_details(settings: PrepareSettings, model: Resolved | ResolvedOther | None) -> dict[str, Any]:
    if settings.sentence_model is None or model is None:
        return {}
    return {"sentenceModel": {"uri": settings.sentence_model.uri, "reference": model.reference}}


class _Steps:
    """Progress: each source, then the model, then the files."""

    def __init__(self, workspace: Workspace, settings: PrepareSettings) -> None:
        self._workspace = workspace
        sources = (settings.seed, settings.replay, settings.contexts, settings.test)
        self._total = sum(map(len, sources)) + 2
        self._done = 0

    def done(self) -> None:
        self._done += 1
        self._workspace.progress(self._done, self._total, "parts")
