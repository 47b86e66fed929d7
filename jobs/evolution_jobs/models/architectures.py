"""Models that the installed transformers can load, found without importing transformers."""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Mapping
from functools import cache
from pathlib import Path

WRITERS, CLASSIFIERS = "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES", "MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES"
ENCODERS = "MODEL_MAPPING_NAMES"
"""The tables of transformers that map a `model_type` to its language model, to its model that labels a text, and to the one without a head."""


def language_models() -> Mapping[str, str]:
    """The class of the language model by `model_type` in a config.json. Raises as `_table` does."""
    return _table(WRITERS)


def classifiers() -> Mapping[str, str]:
    """The same for models that label a text, which reward models are."""
    return _table(CLASSIFIERS)


def encoders() -> Mapping[str, str]:
    """The same for models without a head, which sentence models are."""
    return _table(ENCODERS)


@cache
def _table(name: str) -> Mapping[str, str]:
    """A table of the installed transformers. Raises ModuleNotFoundError if it is not installed.

    It is read from its source code: importing it imports torch, which takes seconds and 600 MiB.
    """
    package = importlib.util.find_spec("transformers")
    if package is None or package.origin is None:
        raise ModuleNotFoundError("No module named 'transformers'", name="transformers")
    source = Path(package.origin).with_name("models") / "auto" / "modeling_auto.py"
    try:
        return _read(source.read_text("utf-8"), name)
    except (OSError, ValueError, SyntaxError, TypeError, IndexError, StopIteration):
        # Another version may keep the table elsewhere or compute it: then only an import helps.
        from transformers.models.auto import modeling_auto

        return dict(getattr(modeling_auto, name))


def _read(source: str, name: str) -> dict[str, str]:
    """The first items of `NAME = OrderedDict([("llama", "LlamaForCausalLM"), ...])`."""
    assigned = (each for each in ast.parse(source).body if isinstance(each, ast.Assign))
    table = next(each.value for each in assigned if ast.unparse(each.targets[0]) == name)
    if not isinstance(table, ast.Call):
        raise TypeError(f"{name} is no call")
    return dict(ast.literal_eval(table.args[0]))
