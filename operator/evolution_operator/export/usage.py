"""How the exported model is loaded and asked, as a part of its card. Pure."""

from __future__ import annotations

import json

from evolution_jobs.contract.settings import SamplingSettings
from evolution_jobs.preference.prompts import SYSTEM

from .card_words import base_words
from .facts import Facts


def usage(facts: Facts, *, merged: bool, rounding: str | None) -> str:
    """Code with the system prompt and the sampling settings. `rounding` is what merging has cost."""
    lines = [
        "It was trained and evaluated with the system prompt of this code, and answers as measured below only with it:",
        "",
        "```python",
        *(_imports(merged)),
        "",
        f"SYSTEM = {json.dumps(SYSTEM)}",
        "",
        *(_loading(facts, merged)),
        'tokenizer = AutoTokenizer.from_pretrained("FOLDER")',
        'messages = [{"role": "system", "content": SYSTEM}, {"role": "user", "content": "I lost my job."}]',
        'prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=True, return_tensors="pt")',
        "answer = model.generate(",
        "    **prompt,",
        *(f"    {name}={value}," for name, value in ways(facts.sampling).items()),
        ")",
        'print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))',
        "```",
    ]
    if facts.base_name is None and not merged:
        lines += ["", f"`BASE` is the base model ({base_words(facts)}), which is not on the Hugging Face Hub."]
    if facts.quantization:
        lines += [
            "",
            f"The adapter was trained on the base model quantised to {facts.quantization}. On unquantised weights, its answers "
            "differ a little.",
        ]
    return "\n".join([*lines, *(["", rounding] if rounding else [])])


def _imports(merged: bool) -> list[str]:
    peft = [] if merged else ["from peft import PeftModel"]
    return [*peft, "from transformers import AutoModelForCausalLM, AutoTokenizer"]


def _loading(facts: Facts, merged: bool) -> list[str]:
    if merged:
        return ['model = AutoModelForCausalLM.from_pretrained("FOLDER")']
    revision = f", revision={json.dumps(facts.base_revision)}" if facts.base_revision else ""
    return [
        f"base = AutoModelForCausalLM.from_pretrained({json.dumps(facts.base_name or 'BASE')}{revision})",
        'model = PeftModel.from_pretrained(base, "FOLDER")',
    ]


def ways(sampling: SamplingSettings) -> dict[str, object]:
    """The settings as arguments of `generate`."""
    drawn: dict[str, object] = {"do_sample": False}
    if sampling.temperature > 0:
        drawn = {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
        }
    return {**drawn, "repetition_penalty": sampling.repetition_penalty, "max_new_tokens": sampling.max_new_tokens}
