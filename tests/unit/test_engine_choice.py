"""Which engine runs a model, what vLLM is told, and what a user is told of its errors; all without vLLM."""

import dataclasses
import json

import numpy as np
import pytest
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.settings import EvaluationSettings, GenerationSettings, ReflectionSettings
from evolution_jobs.engines import vllm_arguments as arguments
from evolution_jobs.engines.base import Request, Sampling
from evolution_jobs.engines.choice import choose
from evolution_jobs.engines.vllm_errors import out_of_memory
from evolution_jobs.models.load import locate
from evolution_jobs.stages.models import engines_of, mixed
from safetensors.numpy import save_file

COMMIT = "0123456789012345678901234567890123456789"


@pytest.mark.parametrize(
    ("wanted", "installed", "gpu", "expected"),
    [
        ("auto", True, True, "vllm"),
        ("auto", True, False, "transformers"),
        ("auto", False, True, "transformers"),
        ("transformers", True, True, "transformers"),
        ("vllm", True, False, "vllm"),
    ],
)
def test_auto_is_vllm_where_it_is_installed_and_has_a_gpu(wanted, installed, gpu, expected):
    assert choose(wanted, installed, gpu, "generation").engine == expected


def test_vllm_that_is_not_installed_is_an_error_that_names_the_setting():
    with pytest.raises(PermanentError, match=r"reflection\.engine is vllm") as caught:
        choose("vllm", False, True, "reflection")
    assert caught.value.reason == "DependencyMissing"


@pytest.mark.parametrize(("rank", "expected"), [(1, 1), (2, 8), (8, 8), (9, 16), (257, 320), (512, 512)])
def test_a_rank_is_rounded_up_to_one_that_vllm_has(rank, expected):
    assert arguments.max_lora_rank(rank) == expected


def test_a_rank_that_vllm_does_not_have_is_an_error():
    with pytest.raises(PermanentError, match="rank 513"):
        arguments.max_lora_rank(513)


@pytest.fixture
def adapter(tmp_path):
    (tmp_path / "adapter_config.json").write_text(json.dumps({"r": 8, "rank_pattern": {"q_proj": 12}}))
    names = ("layers.0.self_attn.q_proj.lora_A.weight", "layers.0.mlp.down_proj.lora_B.weight")
    save_file(
        {f"base_model.model.model.{name}": np.zeros((1, 1)) for name in names}, tmp_path / "adapter_model.safetensors"
    )
    return tmp_path


def test_rank_and_layers_of_an_adapter_are_read_from_its_files(adapter):
    read = arguments.read_adapter(adapter)
    assert (read.rank, read.layers) == (12, {"q_proj", "down_proj"})
    told = engine_arguments(adapter=read)
    assert told["max_lora_rank"] == 16
    # Also under the name of the layer that vLLM joins it to, and not the output head.
    assert told["lora_target_modules"] == ["down_proj", "q_proj", "qkv_proj"]


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_that_cannot_be_read_is_an_error(adapter, name):
    (adapter / name).write_bytes(b"{")
    with pytest.raises(PermanentError, match="cannot be read") as caught:
        arguments.read_adapter(adapter)
    assert caught.value.reason == "AdapterIncomplete"


def engine_arguments(settings=None, **options):
    given = {
        "length": 512,
        "dtype": "bfloat16",
        "adapter": None,
        "quotes": [7],
        "scores": False,
        "gpu": True,
        **options,
    }
    return arguments.engine_arguments(locate(f"hf://owner/model@{COMMIT}"), settings or GenerationSettings(), **given)


def test_a_model_of_the_hub_is_pinned_and_safe():
    told = engine_arguments()
    assert (told["model"], told["revision"], told["tokenizer_revision"]) == ("owner/model", COMMIT, COMMIT)
    assert told["trust_remote_code"] is False
    assert told["load_format"] == "safetensors"
    assert told["enable_prefix_caching"] is True
    assert "enable_lora" not in told
    assert told["additional_config"] == {arguments.QUOTES: [7]}


def test_the_settings_reach_the_engine():
    settings = GenerationSettings.model_validate({"vllm": {"gpuMemoryUtilization": 0.5, "tensorParallel": 4}})
    told = engine_arguments(settings, scores=True)
    assert (told["gpu_memory_utilization"], told["tensor_parallel_size"]) == (0.5, 4)
    assert told["max_num_batched_tokens"] == arguments.SCORING["max_num_batched_tokens"]


@pytest.mark.parametrize(
    ("settings", "positions", "expected"),
    [
        (GenerationSettings(max_prompt_tokens=100, max_new_tokens=20), None, 121),
        (GenerationSettings(max_prompt_tokens=100, max_new_tokens=20), 64, 64),
        (ReflectionSettings(max_prompt_tokens=100, max_new_tokens=20, max_profile_tokens=50), 4096, 151),
        (EvaluationSettings.model_validate({"maxPromptTokens": 100, "maxNewTokens": 20, "profile": {}}), 4096, 357),
        (EvaluationSettings.model_validate({"vllm": {"maxModelLength": 80}}), 4096, 80),
    ],
)
def test_the_length_is_what_the_settings_need_and_the_model_has(settings, positions, expected):
    assert arguments.model_length(settings, positions) == expected


def test_the_length_covers_rows_made_ahead():
    """The quickstart's reflection has longer prompts than its generation."""
    generation = GenerationSettings(max_prompt_tokens=224, max_new_tokens=32)
    reflection = ReflectionSettings(max_prompt_tokens=416, max_new_tokens=32, max_profile_tokens=64)
    assert arguments.model_length(generation, 4096, [reflection]) == 481


def request(penalty):
    return Request("a", [], Sampling(0.9, 0.8, 50, penalty), seed=2**63 - 1, max_new_tokens=7, max_prompt_tokens=9)


def test_a_request_is_sampled_as_the_spec_says():
    told = arguments.sampling_arguments(request(1.2), [5, 2, 7, 2], frozenset({2, 3}))
    assert told == {
        "temperature": 0.9,
        "top_p": 0.8,
        "top_k": 50,
        "repetition_penalty": 1.2,
        "seed": 2**63 - 1,
        "max_tokens": 7,
        "stop_token_ids": [2, 3],
        "detokenize": False,
        "extra_args": {arguments.UNPENALISED: [2]},
    }


def test_an_object_is_closed_before_its_tokens_run_out():
    told = arguments.sampling_arguments(dataclasses.replace(request(1), schema={}), [5, 2], frozenset({2}), reserve=3)
    assert told["extra_args"] == {arguments.CLOSE_AT: 2 + 7 - 3}


@pytest.mark.parametrize(("penalty", "prompt"), [(1, [2]), (1.2, [5])])
def test_nothing_is_exempt_from_a_penalty_that_does_not_reach_it(penalty, prompt):
    assert "extra_args" not in arguments.sampling_arguments(request(penalty), prompt, frozenset({2}))


@pytest.mark.parametrize(
    ("words", "setting"),
    [
        ("No available memory for the cache blocks.", "raise generation.vllm.gpuMemoryUtilization"),
        ("4.2 GiB KV cache is needed, which is larger", "generation.vllm.maxModelLength"),
        ("Free memory on device (1/80 GiB) on startup is less than desired GPU memory utilization", "lower"),
        ("CUDA out of memory. Tried to allocate 2 GiB", "lower generation.vllm.gpuMemoryUtilization"),
    ],
)
def test_memory_that_runs_out_names_the_setting(words, setting):
    try:
        try:
            raise ValueError(words)
        except ValueError as error:
            raise RuntimeError("the engine has failed") from error
    except RuntimeError as error:
        explained = out_of_memory(error, "generation")
    assert explained is not None
    assert explained.reason == "OutOfMemory"
    assert setting in str(explained)


def test_other_errors_are_not_about_memory():
    assert out_of_memory(ValueError("no such layer"), "generation") is None


def test_a_manifest_counts_the_rows_of_each_engine():
    rows = [{"engine": "vllm 1"}, {"engine": "vllm 1"}, {"engine": "transformers 5"}, {}]
    assert engines_of(rows) == {"engines": {"vllm 1": 2, "transformers 5": 1}}
    assert "vllm 1 2, transformers 5 1" in mixed(engines_of(rows))[0]
    assert mixed(engines_of(rows[:2])) == []
    assert engines_of([{}]) == {}
