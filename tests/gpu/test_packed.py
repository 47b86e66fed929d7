"""Packed passes on a GPU: FlexAttention gives what trl gives for padded rows."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from evolution_jobs.training.encoding import IGNORED
from evolution_jobs.training.forward import FIELDS, Layout, best_layout, spare_forward
from transformers import LlamaConfig, LlamaForCausalLM
from trl.trainer.utils import add_fused_lm_head

from tests.support.stages.token_batches import batch

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
]
PAIRS = [(300, 40, 35), (90, 12, 60), (511, 1, 1), (200, 77, 128)]


def model(dtype: torch.dtype) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=256, intermediate_size=512, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=2,
    )  # fmt: skip
    made = LlamaForCausalLM(config).to("cuda", dtype)
    add_fused_lm_head(made, outputs=FIELDS)
    return made


def figures(model: LlamaForCausalLM, given: dict[str, torch.Tensor]) -> tuple[Any, torch.Tensor]:
    model.zero_grad()
    output = model(**given, fused_lm_head=True)
    weights = torch.arange(1.0, 1 + len(given["labels"]), device="cuda")
    (output.log_probs.sum(1) * weights).sum().backward()
    return output.log_probs.detach(), torch.cat([weight.grad.flatten() for weight in model.model.layers.parameters()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("pairs", [True, False])
def test_packed_rows_give_what_trl_gives(dtype: torch.dtype, pairs: bool) -> None:
    small, given = (
        {name: value.to("cuda") for name, value in batch(rows).items()} for rows in ([(48, 16, 9), (30, 5, 16)], PAIRS)
    )
    own = model(dtype)
    expected, gradient = figures(own, given)
    layout = best_layout(own, small["input_ids"], small["labels"], pairs=pairs)
    assert layout == Layout(shared=pairs, packed=True)
    spare_forward(own, layout)
    packed, spared = figures(own, given)
    learnt = int((given["labels"] != IGNORED).sum())
    tolerance = 1e-3 if dtype == torch.float32 else 2e-2
    assert float((packed - expected).abs().sum()) / learnt < tolerance
    assert float((spared - gradient).norm() / gradient.norm()) < (1e-3 if dtype == torch.float32 else 5e-2)
