"""Method settings of each stage, with the paper's values as defaults (arXiv 2505.16610).

Every field decides the result and is therefore part of the stage's key, except those marked `NotInKey`: they only
decide how fast, or in how many pieces, the same result is made.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, ValidationInfo, ValidatorFunctionWrapHandler, WrapValidator

from .document import Document, NotInKey, Rule
from .endpoints import Endpoint
from .locations import BaseModelSource, RewardModelSource, SentenceModelSource, Source
from .profiles import DISTINCT_FIELDS, ProfileAccuracy, ProfileFields


def deciding(settings: Document) -> dict[str, Any]:
    """The settings that decide a stage's result, under their wire names: the part of them that enters its key."""
    values = settings.wire()
    for name, field in type(settings).model_fields.items():
        alias = field.alias or name
        value = getattr(settings, name)
        if any(marker is NotInKey or isinstance(marker, NotInKey) for marker in field.metadata):
            values.pop(alias, None)
        elif isinstance(value, Document) and alias in values:
            values[alias] = deciding(value)
    return values


Precision = Literal["auto", "float32", "bfloat16"]


ALL_LINEAR = "all-linear"
"""Every linear layer but the output head, as PEFT has it."""


class LoraSettings(Document):
    """Low-rank adaptation (paper: r=8, alpha=16)."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "targetModules",
            f"{ALL_LINEAR} already means every layer: use it alone, or list layers without it",
            f"!has(self.targetModules) || !('{ALL_LINEAR}' in self.targetModules) || size(self.targetModules) == 1",
            lambda lora: ALL_LINEAR not in lora.target_modules or len(lora.target_modules) == 1,
        ),
    )

    r: Annotated[int, Field(ge=1, le=1024)] = 8
    """Rank of the update."""
    alpha: Annotated[int, Field(ge=1, le=4096)] = 16
    """Scaling numerator: the update is scaled by alpha / r."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input while training."""
    target_modules: Annotated[
        list[Annotated[str, Field(min_length=1, max_length=256)]], Field(min_length=1, max_length=64)
    ] = [ALL_LINEAR]
    """Names of the layers to adapt; `all-linear`, alone, is every linear layer but the output head."""


class TrainingSettings(Document):
    """What SFT and DPO share."""

    epochs: Annotated[float, Field(gt=0, le=100)] = 1
    """Passes over the training rows."""
    batch_size: Annotated[int, Field(ge=1, le=1024)] = 4
    """Rows of a forward pass. On a CPU a pass has one row; packed passes on a GPU may have more where that takes no more memory."""
    gradient_accumulation: Annotated[int, Field(ge=1, le=1024)] = 2
    """Passes of `batchSize` rows per optimiser step, over all processes: a step has batchSize x gradientAccumulation rows however they are computed."""
    warmup_ratio: Annotated[float, Field(ge=0, le=1)] = 0.03
    """Share of the steps over which the learning rate rises from 0."""
    scheduler: Literal["linear", "cosine", "constant"] = "cosine"
    """How the learning rate falls after the warm-up."""
    max_length: Annotated[int, Field(ge=32, le=131072)] = 2048
    """Longest sequence in tokens; longer dialogues lose their oldest turns, and how many is counted."""
    precision: Precision = "auto"
    """Arithmetic of the base model: `auto` is bfloat16 on a GPU that has it, else float32."""
    gradient_checkpointing: bool = False
    """Trade about a third more compute for much less activation memory."""
    checkpoint_steps: Annotated[int, Field(ge=1, le=100000), NotInKey] = 50
    """Optimiser steps between checkpoints. A lost node costs at most this many steps."""


class SftSettings(TrainingSettings):
    """Supervised fine-tuning of M0 (paper section 3: LoRA, 2 epochs, early stopping with patience 3)."""

    epochs: Annotated[float, Field(gt=0, le=100)] = 2
    """Passes over the training dialogues."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] = 1e-4
    """Peak learning rate of AdamW."""
    early_stopping_patience: Annotated[int, Field(ge=0, le=100)] = 3
    """Evaluations without a lower validation loss before training stops; 0 turns early stopping off."""
    evaluations_per_epoch: Annotated[int, Field(ge=1, le=100)] = 2
    """Measurements of the validation loss per epoch."""
    lora: LoraSettings = LoraSettings()
    """The adapter that SFT makes and DPO trains on."""


ReferenceModel = Literal["previous", "sft", "base"]


class DpoSettings(TrainingSettings):
    """Direct preference optimisation from M(t-1) to Mt (paper: beta 0.1, gamma 1, AdamW lr 5e-6, batch 4 x 2)."""

    learning_rate: Annotated[float, Field(gt=0, le=1)] = 5e-6
    """Peak learning rate of AdamW."""
    beta: Annotated[float, Field(gt=0, le=10)] = 0.1
    """How strongly the policy is kept close to its reference."""
    sft_weight: Annotated[float, Field(ge=0, le=100)] = 1.0
    """Weight (gamma) of the SFT loss on the chosen answer."""
    held_out: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of the dialogues whose pairs are not trained on, the same in every round; Mt's reward margin and accuracy are measured on them. Unset trains on all."""
    reference: ReferenceModel = "previous"
    """The model that the policy is kept close to: `previous` is M(t-1) (the paper), `sft` is M0, `base` is the base model."""


EngineChoice = Literal["auto", "transformers", "vllm"]


class VllmSettings(Document):
    """How vLLM uses the machine. Without effect where the engine is transformers."""

    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of each GPU's memory that vLLM takes, for weights and attention states. Lower it if memory runs out."""
    tensor_parallel: Annotated[int, Field(ge=1, le=64)] = 1
    """GPUs that the model's weights are divided among; the stage's Pod must be given as many."""
    max_model_length: Annotated[int, Field(ge=64, le=1_048_576)] | None = None
    """Longest sequence in tokens, prompt and answer; unset takes what the stage's own settings need. Lower it if the attention states of one sequence do not fit into memory. A history that is then too long loses its oldest turns, which changes its answer, although no key has this setting."""


class SamplingSettings(Document):
    """How an answer is sampled (paper: temperature 0.9, top-p 0.8, top-k 50, repetition penalty 1.2)."""

    temperature: Annotated[float, Field(ge=0, le=5)] = 0.9
    """0 is greedy."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Smallest set of tokens whose probability reaches this."""
    top_k: Annotated[int, Field(ge=0, le=100000)] = 50
    """Most likely tokens kept; 0 keeps all."""
    repetition_penalty: Annotated[float, Field(ge=1, le=5)] = 1.2
    """Penalty on tokens that are already in the prompt or the answer; 1 is no penalty."""
    max_new_tokens: Annotated[int, Field(ge=1, le=8192)] = 256
    """Longest answer in tokens."""
    max_prompt_tokens: Annotated[int, Field(ge=32, le=131072)] = 1792
    """Longest prompt in tokens; longer histories lose their oldest turns, and how many is counted."""
    precision: Precision = "auto"
    """Arithmetic of the base model: `auto` is bfloat16 on a GPU that has it, else float32."""
    token_budget: Annotated[int, Field(ge=128, le=10_000_000), NotInKey] = 8192
    """Tokens (prompt and answer, padding included) a batch of the transformers engine may hold. vLLM makes its own batches."""
    engine: Annotated[EngineChoice, NotInKey] = "auto"
    """What runs the model: `auto` is vLLM if the image has it and the process has a GPU, else transformers. Both sample from the same distribution, but not the same text. It is in no key, so that a run that goes on with another image keeps its finished work; the manifest says how many rows each engine made (`details.engines`)."""
    vllm: Annotated[VllmSettings, NotInKey] = VllmSettings()
    """How vLLM uses the machine."""


class GenerationSettings(SamplingSettings):
    """M(t-1) answers each context directly; the answer becomes `rejected`."""


PreferenceSourceName = Literal["self", "human", "none", "teacher", "reward"]
PreferenceChoice = Literal["self", "human", "none", "teacher", "reward", "mixed"]

REWRITTEN: frozenset[PreferenceSourceName] = frozenset({"self", "none"})
"""Sources for which M(t-1) rewrites its own answer, and nothing else is needed."""

SAMPLED: frozenset[PreferenceSourceName] = REWRITTEN | {"reward"}
"""Sources for which M(t-1) writes something."""

Weight = Annotated[int, Field(ge=1, le=1_000_000)]


class PreferenceWeights(Document):
    """Several preference sources: each context gets one of them, as often as its weight says."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "self",
            "at least two sources must have a weight; for a single one set preferenceSource to it",
            "[has(self.self), has(self.none), has(self.human), has(self.teacher), has(self.reward)]"
            ".filter(given, given).size() >= 2",
            lambda weights: len(weights.wire()) >= 2,
        ),
    )

    refined: Weight | None = Field(None, alias="self")
    """Weight of `self`: the model's own answer refined with the inferred profile."""
    none: Weight | None = None
    """Weight of `none`: refined without a profile."""
    human: Weight | None = None
    """Weight of `human`: the data set's own answer."""
    teacher: Weight | None = None
    """Weight of `teacher`: the answer of the model at `spec.teacher`."""
    reward: Weight | None = None
    """Weight of `reward`: the best and the worst answer by the reward model or the judge at `spec.reward`."""


class TeacherSettings(Endpoint):
    """The teacher: another model that answers each context; its answer becomes `chosen`."""

    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    """0 is greedy; unset leaves it to the endpoint. Some models refuse to be told."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    """Smallest set of tokens whose probability reaches this; unset leaves it to the endpoint."""
    max_tokens: Annotated[int, Field(ge=1, le=131072)] = 512
    """Longest answer in tokens, thoughts of a reasoning model included."""


class PairwiseJudge(Endpoint):
    """A model that compares answers pairwise, each pair in both orders."""

    temperature: Annotated[float, Field(ge=0, le=2)] = 0.0
    """0 is greedy. Some reasoning models take only 1."""
    max_tokens: Annotated[int, Field(ge=16, le=131072)] = 1024
    """Longest verdict in tokens, thoughts of a reasoning model included. A verdict alone has about 60."""


class JudgeSettings(PairwiseJudge):
    """The judge: it compares the answers of every Mt with others."""

    samples: Annotated[int, Field(ge=1, le=1_000_000)] = 200
    """Evaluated contexts that are judged, drawn by seed; all, if there are fewer. Each takes two requests against the human answer, and from M1 on two against the model before."""
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] | None = None
    """Seed of the draw; unset takes the run's."""


class JudgingSettings(JudgeSettings):
    """The judge, and what it judges."""

    policy: Annotated[str, NotInKey] = ""
    """Address of the base model, for a warning if it is of the judge's family."""


class RewardSettings(Document):
    """A reward model or a judge scores several answers of M(t-1); the best becomes `chosen` and the worst `rejected`."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "candidates",
            "of one answer alone there is no best and worst: raise it, or set refine: true",
            "!has(self.candidates) || self.candidates > 1 || self.refine",
            lambda reward: reward.candidates > 1 or reward.refine,
        ),
        Rule(
            "margin",
            "is a difference of shares of points with a judge, which is at most 1: lower it",
            "!has(self.judge) || !has(self.margin) || self.margin <= 1.0",
            lambda reward: reward.judge is None or reward.margin <= 1,
        ),
    )

    candidates: Annotated[int, Field(ge=1, le=64)] = 4
    """Direct answers of M(t-1) to each context; that of generate is the first. The others are sampled with reflection's settings."""
    refine: bool = True
    """Whether the answer that M(t-1) refines with the inferred profile, as with `self`, is among them."""
    margin: Annotated[float, Field(ge=0, le=1_000_000)] = 0.0
    """Least difference of the scores of chosen and rejected, in the reward model's own unit; with a judge, shares of points, from 0 to 1. Equal scores never make a pair."""
    max_length: Annotated[int, Field(ge=64, le=131072)] = 2048
    """Longest chat in tokens of the reward model; longer histories lose their oldest turns before they are scored, and how many is counted. Without effect with a judge."""
    batch_size: Annotated[int, Field(ge=1, le=1024), NotInKey] = 8
    """Answers that the reward model scores in one pass."""
    judge: PairwiseJudge | None = None
    """In place of a reward model: a judge behind an endpoint that compares every two answers to a context in both orders. Of n answers, these are n (n - 1) requests for each context."""


class RefinementSettings(SamplingSettings):
    """M(t-1) infers the user's profile and rewrites its answer; the rewrite becomes `chosen`."""

    rules: ClassVar[tuple[Rule, ...]] = (DISTINCT_FIELDS,)

    max_attempts: Annotated[int, Field(ge=1, le=10)] = 3
    """Tries per row to get a profile that parses as JSON (paper: 3)."""
    max_profile_tokens: Annotated[int, Field(ge=16, le=4096)] = 256
    """Longest profile in tokens."""
    max_length_ratio: Annotated[float, Field(ge=1, le=100)] = 2.0
    """A row is dropped if chosen has more than this many times the words of rejected (paper: 2)."""
    fields: ProfileFields | None = None
    """What the profile says of the user; unset takes the paper's fields: personality, emotionalState, situation and needs. For another domain, name its own."""


class ReflectionSettings(RefinementSettings):
    """How `chosen` is made."""

    source: PreferenceChoice = "self"
    """Where `chosen` comes from: `spec.preferenceSource`."""
    weights: PreferenceWeights | None = None
    """With `mixed`: how often each source is used."""
    teacher: TeacherSettings | None = None
    """If the teacher is a source: where it answers."""
    reward: RewardSettings | None = None
    """If a reward model or a judge is a source: what it scores."""

    @property
    def shares(self) -> dict[PreferenceSourceName, int]:
        """Each source that is used, with its weight."""
        return shares(self.source, self.weights)


def shares(source: PreferenceChoice, weights: PreferenceWeights | None) -> dict[PreferenceSourceName, int]:
    """Each preference source that is used, with its weight. Their order is fixed."""
    if source != "mixed":
        return {source: 1}
    given = weights.wire() if weights else {}
    return {name: given[name] for name in get_args(PreferenceSourceName) if name in given}


OptionalFigure = Literal["meteor", "bertscore"]


class HeldOutSettings(SamplingSettings):
    """Each Mt answers the same held-out contexts with the same seeds."""

    samples: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    """Contexts to answer, drawn by seed; unset takes all."""
    drift_contexts: Annotated[int, Field(ge=0, le=100_000)] = 32
    """Contexts among them to which M0 writes a text freely, so that every later model's divergence from M0 is known; 0 turns it off."""
    safety: bool = False
    """Whether each Mt also answers 52 short dialogues in English, 40 of them of people in crisis, and rules look at its replies. A model whose replies are less safe than M0's is not chosen as champion."""
    optional_figures: Annotated[list[OptionalFigure], Field(min_length=1, max_length=8)] | None = None
    """Figures that need more than this project installs: `meteor` needs WordNet in NLTK_DATA, `bertscore` the library bert-score and `sentenceModel`. Unset has none of them."""
    profile: ProfileAccuracy | None = None
    """How accurate the profiles are that Mt infers: compared with labels of the test data. `{}` has defaults for ESConv; unset turns it off."""


class EvaluationSettings(HeldOutSettings):
    """What a model is evaluated by."""

    profile_fields: ProfileFields | None = None
    """With `profile`: the fields that the run declares, `spec.reflection.fields`."""


Dialogues = Annotated[list[Source], Field(max_length=32)]
SeedDialogues = Annotated[list[Source], Field(min_length=1, max_length=32)]


class DataSettings(Document):
    """What data a run uses and how it is split."""

    seed: SeedDialogues
    """Dialogues for SFT, split into training and validation by conversation."""
    replay: Dialogues = []
    """General instruction samples mixed into SFT, against forgetting (paper: 500 of Alpaca)."""
    contexts: Dialogues = []
    """Dialogues whose contexts the model answers in each iteration; unset takes the seed's training dialogues."""
    test: Dialogues = []
    """Held-out dialogues for evaluation; unset takes the validation dialogues, which early stopping has seen."""
    validation_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the seed conversations held out for early stopping (paper: 9:1 by conversation)."""
    min_history_turns: Annotated[int, Field(ge=1, le=100)] = 3
    """Least turns of history a context needs (paper: 3)."""
    contexts_per_dialogue: Annotated[int, Field(ge=1, le=1000)] | None = None
    """Contexts to take from one dialogue, drawn by seed; unset takes every supporter turn with enough history."""
    context_samples: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Contexts to answer in each iteration, drawn by seed; unset takes all."""
    on_bad_row: Literal["fail", "skip"] = "fail"
    """A record that cannot be read: refuse the run, or skip and count it."""

    @property
    def data_sets(self) -> list[Source]:
        """Every data set that the run names."""
        return [*self.seed, *self.replay, *self.contexts, *self.test]


class ModelUse(Document):
    """What later stages ask of the base model. prepare checks it, so that it is refused before a GPU is asked for."""

    target_modules: list[str] = [ALL_LINEAR]
    """As in `LoraSettings`."""
    sequences: dict[str, int] = {}
    """Longest sequence in tokens that a stage trains on, by field of the spec."""
    answers: dict[str, int] = {}
    """Longest answer in tokens that a stage samples, by field of the spec."""
    prompts: dict[str, int] = {}
    """Longest prompt in tokens, by field of the spec. prepare keeps no more history than the longest can hold."""
    rounds: Annotated[bool, NotInKey] = True
    """Whether the run has rounds. Without them, only what sft and evaluate ask for is checked. Not in the key: raising `iterations` on a finished run must not repeat prepare."""

    @property
    def longest_prompt(self) -> int | None:
        """Tokens of the longest prompt of any stage; None if no stage is known."""
        return max(self.prompts.values(), default=None)

    def of(self, field: str) -> bool:
        """Whether the run has the stage to which a field of the spec belongs."""
        return self.rounds or field.partition(".")[0] in ("sft", "evaluation")


class RewardUse(Document):
    """The reward model, and what reflect asks of it."""

    model: RewardModelSource
    max_length: int
    """As in `RewardSettings`."""


class PrepareSettings(DataSettings):
    """The run's data and the model it starts from."""

    seed: SeedDialogues = Field(alias="seedData")
    """As in `DataSettings`, under the name that prepare's keys have had from the beginning."""
    base_model: BaseModelSource
    """The model the run starts from."""
    model_use: ModelUse = ModelUse()
    """What the run asks of that model."""
    reward: RewardUse | None = None
    """The reward model of a run that has one."""
    sentence_model: SentenceModelSource | None = None
    """The sentence model of a run that has one."""
    labels: list[str] | None = None
    """Labels of the records that the contexts of `test` are to have: paths, as in `Comparison.label`."""
    optional_labels: list[str] | None = None
    """Labels that they are to have if the records do."""
    pins: dict[str, str] = {}
    """What the operator knows of sources that can change in place: the run's uid, or the size and time of local files. If a pin changes, prepare runs again."""


class PrewarmSettings(Document):
    """Where the model cache lies. A run fills it once for each volume and number of nodes."""

    volume: str
    """`pvc://claim` or `file:///directory/on/the/node`."""
    nodes: int = 1
    """Nodes that are filled."""
    pins: dict[str, str] = {}
    """As in `PrepareSettings`: the run's uid. Whether an earlier run's cache is still there is not known."""


Settings = (
    PrepareSettings
    | SftSettings
    | GenerationSettings
    | ReflectionSettings
    | DpoSettings
    | EvaluationSettings
    | PrewarmSettings
    | JudgingSettings
)
"""Settings of a stage of any kind."""

SETTINGS: dict[str, type[Settings]] = {
    "prepare": PrepareSettings,
    "sft": SftSettings,
    "generate": GenerationSettings,
    "reflect": ReflectionSettings,
    "dpo": DpoSettings,
    "evaluate": EvaluationSettings,
    "prewarm": PrewarmSettings,
    "judge": JudgingSettings,
}


def gpus_of(settings: Settings) -> int:
    """GPUs that one process of a stage can use, if it has some."""
    return settings.vllm.tensor_parallel if isinstance(settings, SamplingSettings) else 1


def _of_its_kind(value: Any, _any_kind: ValidatorFunctionWrapHandler, document: ValidationInfo) -> Any:
    settings = SETTINGS.get(document.data.get("kind", ""))
    # If `kind` itself is wrong, that is the one fault to report.
    return settings.model_validate(value) if settings else value


SettingsOfKind = Annotated[Settings, WrapValidator(_of_its_kind)]
"""A document's settings, of the type that its `kind` says. The field `kind` must come before this one.

Unknown settings are refused, also by `Document.stored`: they could decide the result.
"""
