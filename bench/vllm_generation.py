"""Compare generate and reflect on the vLLM engine with a plain vLLM script that sends the same three prompts.

    python -m bench.vllm_generation [--model DIR] [--rows N] [--rounds N]

Needs a GPU and vLLM. Each side has a process of its own, because two engines of vLLM in one process disturb each other. The model has random weights and the shape of Llama-3.2-1B, so every text is as long as its limit,
and both sides sample the same number of tokens. The script answers all rows, then asks for all profiles as free text,
then for all rewrites, each with `LLM.generate`, prefix caching on. Ours rewrites each answer as soon as it is there, and
constrains the profile by its JSON schema. Also prints how far vLLM's likelihoods are from those of transformers.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from evolution_jobs.chat.chats import Chats
from evolution_jobs.contract.rows import Context, Response
from evolution_jobs.contract.settings import GenerationSettings, LoraSettings
from evolution_jobs.data.contexts import contexts
from evolution_jobs.engines.base import Request, Sampling, row_seed
from evolution_jobs.libraries import set_library_defaults
from evolution_jobs.preference.prompts import answer_messages, refinement_messages, reflection_messages
from evolution_jobs.preference.reflection import ProfileForm
from evolution_jobs.training.adapter import adapter_tensors, new_adapter, save_adapter
from evolution_jobs.training.encoding import ChatEncoder
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from bench.example import dialogues, packaged_model
from bench.figures import figure

ANSWER, PROFILE = 96, 160
"""Tokens of each answer and of each profile."""
FORM = ProfileForm()
SETTINGS = GenerationSettings.model_validate({"maxNewTokens": 192, "vllm": {"gpuMemoryUtilization": 0.35}})


def random_model(directory: Path, tokenizer: Any) -> tuple[Path, Path]:
    """A model and an adapter, written to the directory."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=2048, intermediate_size=8192, num_hidden_layers=16, num_attention_heads=32,
        num_key_value_heads=8, head_dim=64, max_position_embeddings=4096, initializer_range=0.05,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
    )  # fmt: skip
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = LlamaForCausalLM(config)
    torch.set_default_dtype(torch.float32)
    model.save_pretrained(directory / "model")
    tokenizer.save_pretrained(directory / "model")
    adapted = new_adapter(model, LoraSettings(), 0)
    tensors = {name: torch.randn_like(value) * 0.01 for name, value in adapter_tensors(adapted).items()}
    save_adapter(adapted, tensors, None, directory / "adapter")
    return directory / "model", directory / "adapter"


def rows(count: int) -> list[Context]:
    """Contexts of the example's dialogues."""
    found = list(contexts(dialogues("seed"), 3, None, None))
    return [found[place % len(found)].model_copy(update={"id": f"row-{place}"}) for place in range(count)]


def request(row: Context, messages: list[Any], purpose: str, seed: int, **more: Any) -> Request:
    """A request as a stage makes it."""
    given = {"max_new_tokens": ANSWER, "max_prompt_tokens": 1792, "keep": 1} | more
    return Request(
        id=row.id, messages=messages, sampling=Sampling.of(SETTINGS), seed=row_seed(seed, row.id, purpose), **given
    )


def ours(engine: Any, asked: list[Context], seed: int) -> tuple[float, int]:
    """Seconds, and tokens sampled."""
    drafts: dict[str, str] = {}
    profiles: dict[str, str] = {}
    by_id, sampled = {row.id: row for row in asked}, 0

    def follow(response: Response) -> Request | None:
        nonlocal sampled
        sampled += response.tokens
        row = by_id[response.id]
        if row.id not in drafts:
            drafts[row.id] = response.text
            messages = reflection_messages(row.turns, response.text)
            return request(row, messages, "profile", seed, schema=FORM.schema, max_new_tokens=PROFILE, keep=3)
        if row.id not in profiles:
            profiles[row.id] = response.text
            return request(row, refinement_messages(row.turns, drafts[row.id], response.text), "rewrite", seed, keep=5)
        return None

    started = time.perf_counter()
    for part in engine.batches([request(row, answer_messages(row.turns), "answer", seed) for row in asked]):
        for _ in engine.generate(part, follow):
            pass
    return time.perf_counter() - started, sampled


def script(llm: Any, adapter: Path, tokenizer: Any, asked: list[Context], seed: int) -> tuple[float, int]:
    """The same by a plain script."""
    from vllm import SamplingParams
    from vllm.lora.request import LoRARequest

    lora, chats, sampled = LoRARequest("adapter", 1, str(adapter)), Chats.of(tokenizer), 0

    def ask(messages: list[list[Any]], limit: int) -> list[str]:
        nonlocal sampled
        sampling = SamplingParams(
            temperature=0.9, top_p=0.8, top_k=50, repetition_penalty=1.2, max_tokens=limit, seed=seed
        )
        prompts = [{"prompt_token_ids": chats.prompt(chat)} for chat in messages]
        outputs = [output.outputs[0] for output in llm.generate(prompts, sampling, lora_request=lora, use_tqdm=False)]
        sampled += sum(len(output.token_ids) for output in outputs)
        return [output.text for output in outputs]

    started = time.perf_counter()
    drafts = ask([answer_messages(row.turns) for row in asked], ANSWER)
    drafted = list(zip(asked, drafts, strict=True))
    profiles = ask([reflection_messages(row.turns, draft) for row, draft in drafted], PROFILE)
    ask(
        [refinement_messages(row.turns, draft, text) for (row, draft), text in zip(drafted, profiles, strict=True)],
        ANSWER,
    )
    return time.perf_counter() - started, sampled


def difference(engine: Any, model: Path, adapter: Path, tokenizer: Any, asked: list[Context]) -> float:
    """Mean difference of the two engines' likelihoods, in nats a token."""
    from evolution_jobs.engines.transformers_engine import TransformersEngine

    passages = list(ChatEncoder(tokenizer, 1500).answers(asked).values())
    measured = dict(engine.answer_losses(passages))
    expected = dict(TransformersEngine.load(model, adapter, "auto", 8192).answer_losses(passages))
    off = sum(abs(measured[place] - expected[place]) for place in expected)
    print(f"nats a token: {sum(expected.values()) / sum(len(each.answer) for each in passages):.3f}")
    return off / sum(len(each.answer) for each in passages)


def one_side(side: str, given: argparse.Namespace, place: Path) -> dict[str, Any]:
    """Seconds and tokens of each round of one side."""
    tokenizer = AutoTokenizer.from_pretrained(given.model or packaged_model(place))
    model, adapter = random_model(place, tokenizer)
    gc.collect()
    torch.cuda.empty_cache()
    asked, more = rows(given.rows), {}
    if side == "ours":
        from evolution_jobs.engines.vllm_engine import VllmEngine

        engine = VllmEngine.load(model, adapter, SETTINGS, "generation", scores=True)
        more["likelihoods"] = float(f"{difference(engine, model, adapter, tokenizer, asked[:32]):.2g}")
        turns = [ours(engine, asked, turn) for turn in range(given.rounds + 1)]
    else:
        from vllm import LLM

        llm = LLM(model=str(model), enable_lora=True, max_lora_rank=8, enable_prefix_caching=True,
                  gpu_memory_utilization=0.35, max_model_len=2048, dtype="bfloat16")  # fmt: skip
        turns = [script(llm, adapter, tokenizer, asked, turn) for turn in range(given.rounds + 1)]
    # The first is a warm-up.
    return {
        "rates": [len(asked) / seconds for seconds, _ in turns[1:]],
        "tokens": [count for _, count in turns[1:]],
        **more,
    }


def main() -> None:
    """Print one line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", type=Path, help="a directory with SmolLM2's tokenizer; else the package's")
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--side", choices=["ours", "script"], help="for the processes that this one starts")
    given = parser.parse_args()
    set_library_defaults()
    if given.side:
        with tempfile.TemporaryDirectory() as place:
            print(json.dumps(one_side(given.side, given, Path(place))))
        return
    found = {}
    for side in ("ours", "script"):
        command = [sys.executable, "-m", "bench.vllm_generation", "--side", side, *sys.argv[1:]]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
        found[side] = json.loads(output.splitlines()[-1])
    own, peer = found["ours"], found["script"]
    tokens = [own["tokens"][-1], peer["tokens"][-1]]
    figure(
        "generate + reflect, vLLM",
        own["rates"],
        peer["rates"],
        "rows/s",
        1.0,
        tokens=tokens,
        likelihoods=own["likelihoods"],
    )


if __name__ == "__main__":
    main()
