"""Whether a base model, its tokenizer and the run's settings fit together, as far as the model's small files show. Pure.

Each check is a function that returns what is wrong, for the user, or None. They run before any weight is fetched and
before a GPU is asked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from ..contract.errors import PermanentError
from ..contract.settings import ModelUse
from .files import FIELD
from .layers import Layers, target_fault
from .positions import language_part, longest, too_long
from .quantisation import quantisation
from .vocabulary import Vocabulary
from .weights import Tensor

HEADS = ("lm_head", "embed_out")
EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings")
POSITIONS = ("wpe", "embed_positions", "position_embeddings")
"""Tables of learned positions."""
OTHER_MODALITIES = re.compile(r"vision|visual|image|audio|speech|video")
WRITES = ("ForCausalLM", "LMHeadModel")
"""Ends of the names of architectures that write text."""
LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blocks|block)\.(\d+)\.")
LISTED = 5


@dataclass(frozen=True)
class Model:
    """What the small files of a model say."""

    config: Mapping[str, Any]
    language_model: str
    """The class that transformers loads for the config's `model_type`; of a reward model, the one that labels a text."""
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    """By name, from the headers of the weights."""
    indexed: frozenset[str] = frozenset()
    """Names of tensors that the index of the weights promises."""
    generation: Mapping[str, Any] = field(default_factory=dict)
    """generation_config.json."""
    vocabulary: Vocabulary = field(default_factory=Vocabulary)

    @property
    def text(self) -> Mapping[str, Any]:
        """The config of the language model."""
        return language_part(self.config)

    @property
    def embedding(self) -> Tensor | None:
        """The token embedding (rows, width)."""
        return next((tensor for name, tensor in self.tensors.items() if _is(name, EMBEDDINGS, tensor)), None)

    @property
    def rows(self) -> int | None:
        """Rows of the token embedding; None if they are not known."""
        if self.embedding:
            return self.embedding.shape[0]
        rows = self.text.get("vocab_size")
        return rows if isinstance(rows, int) else None

    @property
    def positions(self) -> int | None:
        """The longest sequence; None if there is no limit or it is not known."""
        tables = [tensor.shape[0] for name, tensor in self.tensors.items() if _is(name, POSITIONS, tensor)]
        stated = longest(self.config)
        return min([*tables, *([stated] if stated else [])], default=None)

    @property
    def layers(self) -> Layers:
        """The layers that have a weight."""
        shapes = {
            name.removesuffix(".weight"): each.shape for name, each in self.tensors.items() if name.endswith(".weight")
        }
        tied = not any(_is(name, HEADS, each) for name, each in self.tensors.items())
        return Layers(shapes, HEADS, (*EMBEDDINGS, *POSITIONS), tied, whole_paths=False)


def not_for_text(model: Model, use: ModelUse) -> str | None:
    """Encoder-decoders, classifiers, reward and embedding models, of which transformers would load only a part."""
    named = [str(name) for name in model.config.get("architectures") or []]
    if model.config.get("is_encoder_decoder") is True:
        return "it is an encoder-decoder: take a model that has a decoder only"
    # transformers loads the language model alone of a model with vision.
    writes = (*WRITES, "ForConditionalGeneration") if "text_config" in model.config else WRITES
    if not named or model.language_model in named or any(name.endswith(writes) for name in named):
        return None
    return f"it is a {named[0]}, which does not write text: take a {model.language_model}"


def quantised(model: Model, use: ModelUse) -> str | None:
    """Quantised checkpoints."""
    how = quantisation(model.config, model.tensors)
    return f"the model is quantised ({how}): take the unquantised one it was made from" if how else None


def without_tensors(model: Model, use: ModelUse) -> str | None:
    """Tensors that the index or the config promises and no weight file has."""
    if absent := sorted(model.indexed - model.tensors.keys()):
        return f"the weight files lack {len(absent)} tensors that the index names, first {absent[0]}: fetch them again"
    found = {int(match[1]) for name in model.tensors if (match := LAYER.search(name))}
    wanted = model.config.get("num_hidden_layers", model.config.get("n_layer"))
    if found and isinstance(wanted, int) and (absent_layers := sorted(set(range(wanted)) - found)):
        listed = ", ".join(map(str, absent_layers[:LISTED]))
        return f"the weights lack {len(absent_layers)} of {wanted} layers (number {listed}): fetch them again"
    return None


def another_vocabulary(model: Model, use: ModelUse) -> str | None:
    """An embedding of another size than config.json says: transformers cannot load it."""
    stated = model.text.get("vocab_size")
    if model.embedding and isinstance(stated, int) and stated != model.embedding.shape[0]:
        rows = model.embedding.shape[0]
        return f"config.json says vocab_size {stated}, and the embedding has {rows} rows: set it to {rows}"
    return None


def tokens_beyond(model: Model, use: ModelUse) -> str | None:
    """Tokens that the tokenizer makes and the embedding does not have."""
    if model.rows is None or not (beyond := model.vocabulary.beyond(model.rows)):
        return None
    listed = ", ".join(f"{token} is {id_}" for token, id_ in list(beyond.items())[:LISTED])
    return (
        f"the tokenizer makes {len(beyond)} token ids that the embedding of {model.rows} rows does not have ({listed}): "
        "resize it (resize_token_embeddings) and save model and tokenizer again, or take the tokenizer of this model"
    )


def ids_beyond(model: Model, use: ModelUse) -> str | None:
    """Ids of control tokens, in a config, that the embedding does not have."""
    if model.rows is None:
        return None
    for file, values in (("config.json", model.text), ("generation_config.json", model.generation)):
        for name in ("bos_token_id", "eos_token_id", "pad_token_id"):
            given = values.get(name)
            for id_ in given if isinstance(given, list) else [given]:
                if isinstance(id_, int) and id_ >= model.rows:
                    return f"{file} says {name} {id_}, and the embedding has {model.rows} rows: correct it"
    return None


def missing_targets(model: Model, use: ModelUse) -> str | None:
    """LoRA targets that no layer has, or that cannot be adapted."""
    # transformers fuses the experts of a mixture as it loads them: only the loaded model has the layers' names.
    if not model.tensors or any(".experts." in name for name in model.tensors):
        return None
    return target_fault(use.target_modules, model.layers)


def too_few_positions(model: Model, use: ModelUse) -> str | None:
    """Sequences longer than the model's positions, and answers that leave no room for a prompt.

    Prompts that are longer are shortened as they are made, and counted.
    """
    if (positions := model.positions) is None:
        return None
    faults = [
        too_long(name, length, positions)
        for name, length in use.sequences.items()
        if length > positions and use.of(name)
    ]
    faults += [
        f"{name} {length} leaves no room for a prompt in the {positions} positions of the model: lower it"
        for name, length in use.answers.items()
        if length >= positions and use.of(name)
    ]
    return "; ".join(faults) or None


class Check(NamedTuple):
    """One check and how its fault is told."""

    find: Callable[[Model, ModelUse], str | None]
    reason: str
    of_settings: bool = False
    """The fault names a setting; otherwise it is about the model."""


KINDS = (Check(not_for_text, "ModelUnsupported"), Check(quantised, "ModelUnsupported"))
"""Checks that config.json alone may answer: they run before anything else is read, and again with the headers."""
CHECKS = (
    *KINDS,
    Check(without_tensors, "ModelIncomplete"),
    Check(another_vocabulary, "ModelUnsupported"),
    Check(tokens_beyond, "ModelUnsupported"),
    Check(ids_beyond, "ModelUnsupported"),
    Check(missing_targets, "LoraSettings", of_settings=True),
    Check(too_few_positions, "LengthSettings", of_settings=True),
)


def require_fit(model: Model, use: ModelUse, uri: str, checks: tuple[Check, ...] = CHECKS) -> None:
    """Raise PermanentError with the first check's reason and fault; `uri` is the model's, for the message."""
    for check in checks:
        if fault := check.find(model, use):
            raise PermanentError(check.reason, fault if check.of_settings else f"{FIELD}.uri: {uri}: {fault}")


def _is(name: str, kinds: tuple[str, ...], tensor: Tensor) -> bool:
    layer = name.removesuffix(".weight").rpartition(".")[2]
    return name.endswith(".weight") and layer in kinds and len(tensor.shape) == 2 and not OTHER_MODALITIES.search(name)
