"""Whether model, tokenizer and settings fit together, by what config, tokenizer and headers say."""

import json
from typing import Any

import numpy as np
import pytest
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.settings import ModelUse
from evolution_jobs.models.fitness import Model, require_fit
from evolution_jobs.models.positions import longest
from evolution_jobs.models.vocabulary import Vocabulary
from evolution_jobs.models.weights import Tensor, read_header
from safetensors.numpy import save

FUSED = ("qkv_proj", "o_proj", "gate_up_proj", "down_proj")
SPLIT = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def checkpoint(
    names: tuple[str, ...] = SPLIT, rows: int = 100, tied: bool = False, **more: Tensor
) -> dict[str, Tensor]:
    """The tensors of a model of two layers."""
    tensors = {"model.embed_tokens.weight": Tensor("BF16", (rows, 8)), "model.norm.weight": Tensor("BF16", (8,))}
    for layer in range(2):
        tensors[f"model.layers.{layer}.input_layernorm.weight"] = Tensor("BF16", (8,))
        tensors |= {f"model.layers.{layer}.block.{name}.weight": Tensor("BF16", (8, 8)) for name in names}
    return tensors | ({} if tied else {"lm_head.weight": Tensor("BF16", (rows, 8))}) | more


def fault(use: ModelUse | None = None, tensors: dict[str, Tensor] | None = None, **parts: Any) -> str | None:
    """The reason and the message, or None if everything fits."""
    parts = {"config": {}, **parts}
    model = Model(language_model="LlamaForCausalLM", tensors=checkpoint() if tensors is None else tensors, **parts)
    try:
        require_fit(model, use or ModelUse(), "file:///m")
    except PermanentError as error:
        return f"{error.reason}: {error}"
    return None


def targets(*names: str) -> ModelUse:
    return ModelUse(target_modules=list(names))


class TestTargets:
    @pytest.mark.parametrize(
        "names",
        [
            ("all-linear",),
            ("q_proj", "v_proj"),
            ("block.q_proj",),
            ("layers.1.block.o_proj",),
            ("base.model.layers.0.block.q_proj",),
            SPLIT,
        ],
    )
    def test_names_that_layers_have(self, names: tuple[str, ...]) -> None:
        assert fault(targets(*names)) is None

    def test_fused_layers_are_named(self) -> None:
        found = fault(targets("q_proj", "k_proj", "v_proj", "o_proj"), checkpoint(FUSED))
        assert found == (
            "LoraSettings: sft.lora.targetModules: this model has no layers q_proj, k_proj, v_proj (it has qkv_proj, "
            "o_proj, gate_up_proj, down_proj); did you mean qkv_proj?"
        )

    @pytest.mark.parametrize(
        ("names", "words"),
        [
            (("q_proj", "v_porj"), "this model has no layer v_porj (it has q_proj, "),
            (("q_proj", "v_porj"), "did you mean v_proj?"),
            (("q_proj ",), "did you mean q_proj?"),
            (("all_linear",), "did you mean all-linear?"),
            (("q_proj,v_proj",), "write each layer's name as an item of its own, without patterns"),
            ((r".*\.(q|v)_proj",), "without patterns"),
            (("proj",), "no layer proj"),
            (("input_layernorm",), "input_layernorm is no linear layer"),
            (("q_proj", "lm_head"), "the output head cannot be adapted; leave lm_head out"),
        ],
    )
    def test_names_that_find_nothing_to_adapt(self, names: tuple[str, ...], words: str) -> None:
        found = fault(targets(*names))
        assert found is not None
        assert words in found

    def test_a_head_that_is_the_embedding(self) -> None:
        assert "leave lm_head out" in (fault(targets("lm_head"), checkpoint(tied=True)) or "")
        assert "embed_tokens shares its weight" in (fault(targets("embed_tokens"), checkpoint(tied=True)) or "")

    def test_experts_are_looked_up_in_the_loaded_model(self) -> None:
        experts = {"model.layers.0.mlp.experts.0.w1.weight": Tensor("BF16", (8, 8))}
        assert fault(targets("gate_up_proj"), checkpoint() | experts) is None


QUANTISED = [
    ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes, 4 bit"),
    ({"quant_method": "bitsandbytes", "_load_in_8bit": True}, "bitsandbytes, 8 bit"),
    ({"quant_method": "gptq", "bits": 4}, "gptq, 4 bit"),
    ({"quant_method": "awq", "w_bit": 4}, "awq, 4 bit"),
    ({"quant_method": "fp8", "activation_scheme": "dynamic"}, "fp8, 8 bit"),
    ({"quant_method": "mxfp4", "modules_to_not_convert": []}, "mxfp4"),
    ({"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 3}}}, "hqq, 3 bit"),
    (
        {"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 8}}}},
        "compressed-tensors, 8 bit",
    ),
]


class TestQuantisation:
    @pytest.mark.parametrize(("section", "words"), QUANTISED)
    def test_by_config(self, section: dict[str, Any], words: str) -> None:
        told = f"ModelUnsupported: baseModel.uri: file:///m: the model is quantised ({words}): take the unquantised one"
        for config in ({"quantization_config": section}, {"text_config": {"quantization_config": section}}):
            assert (fault(config=config) or "").startswith(told)

    def test_by_the_section_that_mlx_writes(self) -> None:
        assert "(4 bit)" in (fault(config={"quantization": {"group_size": 64, "bits": 4}}) or "")

    @pytest.mark.parametrize(
        ("name", "dtype"),
        [
            ("q_proj.weight", "U8"),
            ("q_proj.weight", "F8_E4M3"),
            ("q_proj.qweight", "I32"),
            ("q_proj.weight_scale", "F32"),
        ],
    )
    def test_by_headers(self, name: str, dtype: str) -> None:
        tensors = checkpoint() | {f"model.layers.0.block.{name}": Tensor(dtype, (8, 8))}
        assert f"weights such as model.layers.0.block.{name} are {dtype}" in (fault(tensors=tensors) or "")

    def test_a_mask_or_positions_in_integers_are_no_quantisation(self) -> None:
        more = {"h.0.attn.bias": Tensor("BOOL", (1, 1, 8, 8)), "position_ids": Tensor("I64", (1, 8))}
        assert fault(tensors=checkpoint() | more, config={"quantization_config": None}) is None


POSITIONS = [
    ({"max_position_embeddings": 512}, 512),
    ({"n_positions": 512, "n_ctx": 1024}, 512),
    ({"max_seq_len": 512}, 512),
    ({"text_config": {"max_position_embeddings": 512}}, 512),
    ({"max_position_embeddings": 512, "sliding_window": 64}, 512),
    ({"max_position_embeddings": 512, "rope_scaling": {"type": "linear", "factor": 2.0}}, 1024),
    (
        {
            "max_position_embeddings": 512,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
        },
        2048,
    ),
    (
        {"max_position_embeddings": 512, "rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8}}},
        4096,
    ),
    (
        {
            "max_position_embeddings": 2048,
            "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
        },
        2048,
    ),
    ({"max_position_embeddings": 512, "rope_scaling": {"rope_type": "llama3", "factor": 8.0}}, 512),
    ({"max_position_embeddings": 512, "rope_scaling": {"type": "longrope", "long_factor": [1.0]}}, 512),
    ({"max_position_embeddings": 512, "alibi": True}, None),
    ({"model_type": "bloom", "seq_length": 512}, None),
    ({}, None),
]


class TestPositions:
    @pytest.mark.parametrize(("config", "expected"), POSITIONS)
    def test_by_config(self, config: dict[str, Any], expected: int | None) -> None:
        assert longest(config) == expected

    def test_what_is_longer_than_them_is_refused(self) -> None:
        use = ModelUse(
            sequences={"sft.maxLength": 1024, "dpo.maxLength": 513}, answers={"evaluation.maxNewTokens": 512}
        )
        assert fault(use, config={"max_position_embeddings": 512}) == (
            "LengthSettings: sft.maxLength 1024 exceeds the 512 positions of the model: lower it; "
            "dpo.maxLength 513 exceeds the 512 positions of the model: lower it; "
            "evaluation.maxNewTokens 512 leaves no room for a prompt in the 512 positions of the model: lower it"
        )
        assert fault(use, config={"max_position_embeddings": 1024}) is None

    def test_without_rounds_only_the_stages_of_the_run_count(self) -> None:
        use = ModelUse(
            sequences={"sft.maxLength": 512, "dpo.maxLength": 2048},
            answers={"reflection.maxNewTokens": 512},
            rounds=False,
        )
        assert fault(use, config={"max_position_embeddings": 512}) is None

    def test_a_table_of_positions_counts_whatever_the_config_says(self) -> None:
        table = checkpoint() | {"transformer.wpe.weight": Tensor("F32", (512, 8))}
        assert "exceeds the 512" in (fault(ModelUse(sequences={"sft.maxLength": 1024}), table) or "")


class TestTokens:
    IDS = {f"t{number}": number for number in range(100)}

    def test_tokens_without_an_embedding(self) -> None:
        vocabulary = Vocabulary(
            self.IDS | {"<|start|>": 100, "word": 101}, frozenset({"<|start|>"}), template="<|start|>"
        )
        told = fault(vocabulary=vocabulary)
        assert told is not None
        assert "2 token ids that the embedding of 100 rows does not have (<|start|> is 100, word is 101)" in told
        assert fault(vocabulary=vocabulary, tensors=checkpoint(rows=128)) is None
        assert "embedding of 101 rows" in (fault(vocabulary=vocabulary, tensors={}, config={"vocab_size": 101}) or "")

    def test_a_control_token_that_nothing_writes_needs_none(self) -> None:
        assert fault(vocabulary=Vocabulary(self.IDS | {"<image>": 100}, frozenset({"<image>"}))) is None

    def test_a_pad_token_that_transformers_would_add(self) -> None:
        vocabulary = Vocabulary(self.IDS, named=frozenset({"[PAD]", "t1"}))
        assert "[PAD] is 100" in (fault(vocabulary=vocabulary) or "")
        assert fault(vocabulary=vocabulary, tensors=checkpoint(rows=101)) is None

    @pytest.mark.parametrize("file", ["config", "generation"])
    def test_ids_of_a_config(self, file: str) -> None:
        assert "eos_token_id 100, and the embedding has 100 rows" in (fault(**{file: {"eos_token_id": [2, 100]}}) or "")
        assert fault(**{file: {"eos_token_id": 99, "pad_token_id": -1, "bos_token_id": None}}) is None


class TestParts:
    @pytest.mark.parametrize(
        ("config", "words"),
        [
            ({"architectures": ["Qwen2Model"]}, "it is a Qwen2Model, which does not write text"),
            ({"architectures": ["BertForMaskedLM"]}, "it is a BertForMaskedLM"),
            ({"is_encoder_decoder": True}, "encoder-decoder"),
            ({"vocab_size": 99}, "config.json says vocab_size 99, and the embedding has 100 rows"),
            ({"num_hidden_layers": 4}, "the weights lack 2 of 4 layers (number 2, 3)"),
        ],
    )
    def test_what_does_not_fit(self, config: dict[str, Any], words: str) -> None:
        assert words in (fault(config=config) or "")

    @pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "GPT2LMHeadModel", "LLaMAForCausalLM"])
    def test_what_writes_text(self, architecture: str) -> None:
        assert fault(config={"architectures": [architecture], "num_hidden_layers": 2, "vocab_size": 100}) is None

    def test_the_language_model_of_a_model_with_vision(self) -> None:
        config = {"architectures": ["LlamaVisionForConditionalGeneration"], "text_config": {"num_hidden_layers": 2}}
        vision = {"vision_tower.layers.0.q_proj.weight": Tensor("BF16", (4, 4))}
        assert fault(config=config, tensors=checkpoint() | vision) is None

    def test_what_the_index_promises(self) -> None:
        told = fault(indexed=frozenset({*checkpoint(), "model.layers.2.block.q_proj.weight"}))
        assert "ModelIncomplete" in (told or "")
        assert "lack 1 tensors that the index names, first model.layers.2" in (told or "")


def test_a_header_is_read_as_the_library_writes_it() -> None:
    data = save({"a": np.ones((2, 3), np.float16), "b": np.ones(4, np.uint8)}, {"format": "pt"})
    assert read_header(data, len(data)) == {"a": Tensor("F16", (2, 3)), "b": Tensor("U8", (4,))}
    for broken in (data[:4], data[:-1], data + b"x", b"GGUF" + data[4:]):
        with pytest.raises(ValueError):  # noqa: PT011 -- any text: the caller names the file
            read_header(broken, len(broken))


def test_a_header_of_another_shape_is_no_header() -> None:
    for header in ([], {"a": 1}, {"a": {"dtype": "F16", "shape": [1]}}):
        text = json.dumps(header).encode()
        with pytest.raises(ValueError, match="no safetensors header"):
            read_header(len(text).to_bytes(8, "little") + text, 8 + len(text))
