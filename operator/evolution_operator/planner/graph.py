"""The graph of a run: prepare, prewarm if it has a model cache, sft, evaluate-0, then per round generate, reflect, dpo, evaluate, and a judge after each evaluate if one is set (arXiv 2505.16610, section 3)."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain

from evolution_jobs.contract.profiles import Comparison
from evolution_jobs.contract.settings import (
    SAMPLED,
    DpoSettings,
    EvaluationSettings,
    GenerationSettings,
    JudgingSettings,
    ModelUse,
    PrepareSettings,
    PrewarmSettings,
    ReflectionSettings,
    RewardSettings,
    RewardUse,
    SftSettings,
)
from evolution_jobs.contract.stage import OBSERVING, TRAINED, Node, RankLayout

from ..api.spec import EvolutionRunSpec, JudgeStage, ModelCache


def build_graph(spec: EvolutionRunSpec, pins: dict[str, str]) -> list[Node]:
    """The stages of a run in topological order: the critical path, then evaluations, then judges.

    `pins` is what the executor knows of sources that can change in place; it enters the keys of prepare and prewarm alone.
    """
    rounds, adapter = [[_sft(spec)]], "sft/adapter"
    evaluations = [_evaluate(spec, 0, adapter)]
    for iteration in range(1, spec.iterations + 1):
        generate, *others = _round(spec, iteration, adapter)
        if spec.stopping and iteration > 1:
            # A rule may end the run at the model before, so the models so far are evaluated first.
            generate = generate.model_copy(update={"after": [each.id for each in evaluations]})
        rounds.append([generate, *others])
        adapter = f"dpo-{iteration}/adapter"
        evaluations.append(_evaluate(spec, iteration, adapter))
    judges = [] if spec.judge is None else [_judge(spec, spec.judge, t) for t in range(spec.iterations + 1)]
    stages = [*_ordered(rounds, evaluations, awaited=spec.stopping is not None), *judges]
    prepare = _prepare(spec, pins)
    if spec.model_cache is None:
        return [prepare, *stages]
    prewarm = _prewarm(spec.model_cache, pins)
    return [prepare, prewarm, *(stage.model_copy(update={"after": [prewarm.id, *stage.after]}) for stage in stages)]


def _ordered(rounds: list[list[Node]], evaluations: list[Node], *, awaited: bool) -> list[Node]:
    """All rounds and then the evaluations; if the rounds wait for them, each after its round."""
    if not awaited:
        return [*chain(*rounds), *evaluations]
    return list(chain(*([*nodes, evaluation] for nodes, evaluation in zip(rounds, evaluations, strict=True))))


def critical(graph: Iterable[Node]) -> frozenset[str]:
    """Ids of the stages that the rounds wait for: of those that only observe a model, the ones before which a rule may end
    the run.
    """
    nodes = list(graph)
    needed = {node.id for node in nodes if node.kind not in OBSERVING}
    for node in reversed(nodes):
        if node.id in needed:
            needed |= node.upstream
    return frozenset(needed)


def shards(spec: EvolutionRunSpec, node: Node) -> int:
    """Number of processes that share the stage's rows."""
    by_kind = {
        "generate": spec.generation.shards,
        "reflect": spec.reflection.shards,
        "evaluate": spec.evaluation.shards,
        "judge": spec.judge.shards if spec.judge else 1,
        "prewarm": spec.model_cache.nodes if spec.model_cache else 1,
    }
    return by_kind.get(node.kind, 1)


def ranks(spec: EvolutionRunSpec, kind: str) -> RankLayout:
    """How many processes train a stage of this kind together."""
    if kind not in TRAINED:
        return RankLayout()
    block = spec.block(kind)
    return RankLayout(processes=block.processes, nodes=block.nodes, sharding=block.sharding)


SAME_MODEL = ("precision", "engine", "vllm")
"""Settings that generation and reflection must share for reflect's rows to be made ahead: they decide the arithmetic."""

SAME_POD = ("image", "resources", "node_selector")
"""The same for Pod settings: a stage that was given other resources or nodes is to use them."""


def made_ahead(spec: EvolutionRunSpec, graph: list[Node], node: Node) -> Node | None:
    """The reflect stage whose rows `node` makes as well, if it is the generate stage that reflect reads.

    Of mixed sources it makes the rows that its model writes; for `reward`, the answers that reflect then scores. None if that
    writes none (`human`, `teacher`), or if reflect would use another model or other resources, or has more shards and so is faster by itself.
    """
    generation, reflection = spec.generation, spec.reflection
    alike = all(getattr(generation, name) == getattr(reflection, name) for name in SAME_MODEL) and all(
        getattr(generation.pod, name) == getattr(reflection.pod, name) for name in SAME_POD
    )
    if not alike or not SAMPLED & spec.sources.keys() or reflection.shards > generation.shards:
        return None
    return next((each for each in graph if each.inputs.get("responses") == f"{node.id}/responses"), None)


def _prepare(spec: EvolutionRunSpec, pins: dict[str, str]) -> Node:
    scored = spec.reward
    profile, sentence_model = spec.evaluation.profile, spec.evaluation.sentence_model
    reward = RewardUse(model=scored.model, max_length=scored.max_length) if scored and scored.model else None
    settings = PrepareSettings.taken_from(
        spec.data,
        base_model=spec.base_model,
        model_use=_model_use(spec),
        reward=reward,
        labels=_labels(profile.comparisons if profile else []),
        optional_labels=_labels(profile.optional_comparisons if profile and sentence_model else []),
        sentence_model=sentence_model,
        pins=pins,
    )
    return Node(id="prepare", kind="prepare", settings=settings, seed=spec.seed)


def _labels(compared: list[Comparison]) -> list[str] | None:
    """Their labels, each once; None if nothing is compared."""
    return list(dict.fromkeys(each.label for each in compared)) or None


def _model_use(spec: EvolutionRunSpec) -> ModelUse:
    profile = spec.evaluation.profile
    return ModelUse(
        target_modules=spec.sft.lora.target_modules,
        sequences={"sft.maxLength": spec.sft.max_length, "dpo.maxLength": spec.dpo.max_length},
        answers={
            "generation.maxNewTokens": spec.generation.max_new_tokens,
            "reflection.maxNewTokens": spec.reflection.max_new_tokens,
            "reflection.maxProfileTokens": spec.reflection.max_profile_tokens,
            "evaluation.maxNewTokens": spec.evaluation.max_new_tokens,
            **({"evaluation.profile.maxNewTokens": profile.max_new_tokens} if profile else {}),
        },
        prompts={
            "generation.maxPromptTokens": spec.generation.max_prompt_tokens,
            "reflection.maxPromptTokens": spec.reflection.max_prompt_tokens,
            "evaluation.maxPromptTokens": spec.evaluation.max_prompt_tokens,
        },
        rounds=spec.iterations > 0,
    )


def _prewarm(cache: ModelCache, pins: dict[str, str]) -> Node:
    volume = f"pvc://{cache.claim}" if cache.claim else f"file://{cache.host_path}"
    settings = PrewarmSettings(volume=volume, nodes=cache.nodes, pins=pins)
    return Node(id="prewarm", kind="prewarm", settings=settings, seed=0, inputs={"model": "prepare/model"})


def _sft(spec: EvolutionRunSpec) -> Node:
    inputs = {"model": "prepare/model", "train": "prepare/train", "validation": "prepare/validation"}
    if spec.data.replay:
        inputs["replay"] = "prepare/replay"
    return Node(
        id="sft", kind="sft", iteration=0, settings=SftSettings.taken_from(spec.sft), seed=spec.seed, inputs=inputs
    )


def _round(spec: EvolutionRunSpec, iteration: int, adapter: str) -> list[Node]:
    """generate, reflect and dpo of one round; `adapter` is M(t-1), which answers, reflects and is trained on."""
    seed = spec.seed + iteration
    common = {"model": "prepare/model", "adapter": adapter}
    generate = Node(
        id=f"generate-{iteration}",
        kind="generate",
        iteration=iteration,
        settings=GenerationSettings.taken_from(spec.generation),
        seed=seed,
        inputs={**common, "contexts": "prepare/contexts"},
    )
    reflect = Node(
        id=f"reflect-{iteration}",
        kind="reflect",
        iteration=iteration,
        settings=ReflectionSettings.taken_from(
            spec.reflection,
            source=spec.preference_source,
            weights=spec.preference_weights,
            teacher=spec.teacher,
            reward=RewardSettings.taken_from(spec.reward) if spec.reward else None,
        ),
        seed=seed,
        # `human` reads no model either, but finished results have keys with these inputs.
        inputs={
            **(common if spec.sources.keys() & {*SAMPLED, "human"} else {}),
            **({"reward-model": "prepare/reward-model"} if spec.reward and spec.reward.model else {}),
            "contexts": "prepare/contexts",
            "responses": f"generate-{iteration}/responses",
        },
    )
    reference = {"reference": "sft/adapter"} if spec.dpo.reference == "sft" else {}
    dpo = Node(
        id=f"dpo-{iteration}",
        kind="dpo",
        iteration=iteration,
        settings=DpoSettings.taken_from(spec.dpo),
        seed=seed,
        inputs={**common, "pairs": f"reflect-{iteration}/pairs", **reference},
    )
    return [generate, reflect, dpo]


def _evaluate(spec: EvolutionRunSpec, iteration: int, adapter: str) -> Node:
    # Every Mt has the run's own seed: figures compare only with the same rows and seeds.
    return Node(
        id=f"evaluate-{iteration}",
        kind="evaluate",
        iteration=iteration,
        settings=EvaluationSettings.taken_from(
            spec.evaluation, profile_fields=spec.reflection.fields if spec.evaluation.profile else None
        ),
        seed=spec.seed,
        inputs={
            **{"model": "prepare/model", "adapter": adapter, "test": "prepare/test"},
            **({"sentence-model": "prepare/sentence-model"} if spec.evaluation.sentence_model else {}),
            **({"probes": "evaluate-0/probes"} if iteration and spec.evaluation.drift_contexts else {}),
        },
    )


def _judge(spec: EvolutionRunSpec, judge: JudgeStage, iteration: int) -> Node:
    # Every Mt has one seed here, too, so that the same rows are drawn.
    before = {"before": f"evaluate-{iteration - 1}/answers"} if iteration else {}
    replies = {"safety": f"evaluate-{iteration}/safety"} if spec.evaluation.safety else {}
    return Node(
        id=f"judge-{iteration}",
        kind="judge",
        iteration=iteration,
        settings=JudgingSettings.taken_from(judge, policy=spec.base_model.uri),
        seed=spec.seed if judge.seed is None else judge.seed,
        inputs={"answers": f"evaluate-{iteration}/answers", **before, **replies, "test": "prepare/test"},
    )
