"""The recipe that makes a GGUF of the folder with llama.cpp. Pure."""

from __future__ import annotations

from shlex import quote

from evolution_jobs.printable import printable

from .card_words import plain
from .facts import Facts

CLONE = """```console
$ git clone --depth 1 https://github.com/ggml-org/llama.cpp
$ python -m venv gguf && gguf/bin/pip install -r llama.cpp/requirements/requirements-convert_hf_to_gguf.txt
$ cmake -S llama.cpp -B llama.cpp/build && cmake --build llama.cpp/build --target llama-server llama-quantize -j
```"""


def gguf_recipe(facts: Facts, *, merged: bool) -> str:
    """Commands from the folder above to a server; run in the folder that holds this recipe's folder."""
    name = _word(f"{facts.run}-{facts.model}".lower())
    sampling = facts.sampling
    ways = (
        f"--temp {sampling.temperature:g} --top-p {sampling.top_p:g} --top-k {sampling.top_k} "
        f"--repeat-penalty {sampling.repetition_penalty:g} -n {sampling.max_new_tokens}"
    )
    parts = [
        f"# {plain(facts.run)} {plain(facts.model)} as GGUF",
        "These commands were written for llama.cpp as it was in 2026. They were not run when this folder was made. Run them in "
        "the folder that has the model card.",
        CLONE,
        _merged(name, ways) if merged else _adapter(facts, name, ways),
        "llama.cpp applies its own repetition penalty, over the last tokens only: answers differ a little from those of "
        "the run. The system prompt is in the model card; the server's `/v1/chat/completions` takes it as the first message.",
    ]
    return "\n\n".join(parts) + "\n"


def _merged(name: str, ways: str) -> str:
    return f"""```console
$ gguf/bin/python llama.cpp/convert_hf_to_gguf.py . --outtype bf16 --outfile {name}-bf16.gguf
$ llama.cpp/build/bin/llama-quantize {name}-bf16.gguf {name}-q4_k_m.gguf Q4_K_M
$ llama.cpp/build/bin/llama-server -m {name}-q4_k_m.gguf --jinja {ways}
```"""


def _adapter(facts: Facts, name: str, ways: str) -> str:
    if facts.base_name is None:
        fetch = "# put the base model's folder (config, tokenizer, safetensors) at BASE\n"
    else:
        revision = f" --revision {_word(facts.base_revision)}" if facts.base_revision else ""
        fetch = f"$ gguf/bin/hf download {_word(facts.base_name)}{revision} --local-dir BASE\n"
    return f"""```console
{fetch}$ gguf/bin/python llama.cpp/convert_hf_to_gguf.py BASE --outtype bf16 --outfile base-bf16.gguf
$ gguf/bin/python llama.cpp/convert_lora_to_gguf.py . --base BASE --outtype f32 --outfile {name}-lora.gguf
$ llama.cpp/build/bin/llama-server -m base-bf16.gguf --lora {name}-lora.gguf --jinja {ways}
```

The adapter stays apart, so one base model serves several: repeat `--lora` for each. A base model in 4 bits
(`llama-quantize`) works, too, and changes the answers."""


def _word(text: str) -> str:
    """Text from outside as one word of a shell command, in one line."""
    return quote(printable(text))
