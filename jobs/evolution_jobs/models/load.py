"""Load a tokenizer, a base model and a LoRA adapter. Only safetensors; no code from the model's repository is run."""

from __future__ import annotations

import importlib.util
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, urlsplit

import torch
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from ..cgroup import allowed_cores
from ..contract.errors import PermanentError, StageError, TransientError
from ..contract.locations import Quantization
from ..contract.settings import Precision
from ..contract.variables import GPUS_VARIABLE
from ..contract.volumes import mounted_path
from ..libraries import install
from ..redaction import redacted

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_HUB = re.compile(r"^hf://([\w.-]+/[\w.-]+)@([\w.-]+)$")


class Location(NamedTuple):
    """Arguments of `from_pretrained`: a local directory, or a hub model and its commit."""

    name: str
    revision: str | None

    @property
    def directory(self) -> Path | None:
        """The local directory, None for a hub model."""
        return Path(self.name) if self.revision is None else None


def locate(reference: Path | str) -> Location:
    """The location of a reference: a directory or `file:///directory`, `hf://owner/model@commit` or `pvc://claim/path`.

    Raises PermanentError (`ModelReference`) for any other reference, an unpinned hub model included.
    """
    text = str(reference)
    if match := _HUB.match(text):
        return Location(match[1], match[2])
    if text.startswith("hf://"):
        raise PermanentError("ModelReference", f"{text} names no commit; write hf://owner/model@commit")
    if text.startswith("pvc://"):
        if (mounted := mounted_path(text)) is None:
            raise PermanentError("ModelReference", f"{text} points outside its volume; remove the '..'")
        return Location(str(mounted), None)
    if text.startswith("file:///"):
        return Location(unquote(urlsplit(text).path), None)
    if "://" in text:
        raise PermanentError("ModelReference", f"{text} is neither a directory nor an hf:// or pvc:// reference")
    return Location(text, None)


def load_tokenizer(reference: Path | str) -> PreTrainedTokenizerBase:
    """The model's tokenizer, with padding on the left; without a pad token, the end-of-sequence token is used.

    Raises PermanentError (`ModelIncomplete`) if tokenizer, chat template or end-of-sequence token is missing.
    """
    location = locate(reference)
    if directory := location.directory:
        _require_any(directory, ("tokenizer.json", "tokenizer.model", "vocab.json"), "tokenizer")
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            location.name, revision=location.revision or "main", trust_remote_code=False, padding_side="left"
        )
    except (OSError, ValueError, KeyError, TypeError, ImportError) as error:
        raise unloadable(location, "tokenizer", error) from error
    if not tokenizer.chat_template:
        raise PermanentError(
            "ModelIncomplete",
            f"{location.name} has no chat template; take an instruction-tuned model, or add chat_template.jinja to it",
        )
    if tokenizer.eos_token_id is None:
        raise PermanentError(
            "ModelIncomplete", f"{location.name} has no end-of-sequence token; set eos_token in tokenizer_config.json"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    reference: Path | str,
    adapter: Path | None,
    precision: Precision,
    *,
    trainable: bool = False,
    to_device: bool = True,
    quantization: Quantization | None = None,
) -> PreTrainedModel:
    """The base model with its adapter, in evaluation mode, on the GPU if there is one and `to_device` is True.

    With `trainable`, the result is a PeftModel, and the adapter's weights require gradients. Otherwise the adapter of a
    float32 model is merged into its weights, which saves two small products a layer. The adapter of a bfloat16 model
    stays separate: most of a DPO update (learning rate 5e-6) is smaller than half a unit in the last place of a bfloat16
    weight and would be lost in rounding. So does that of a quantised model, whose weights cannot take it.

    Raises PermanentError (`ModelIncomplete`, `AdapterIncomplete`), which names the missing or broken file, or
    TransientError (`ModelUnavailable`) if the hub cannot be reached.
    """
    location = locate(reference)
    if location.directory:
        require_weights(location.directory)
    if adapter is not None:
        require_adapter(adapter)
    device, dtype = placement(precision)
    # torch itself counts the machine's cores: a container with 2 of 64 would run 64 threads on them.
    if device.type == "cpu" and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(allowed_cores())
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            location.name,
            revision=location.revision or "main",
            dtype=dtype,
            device_map={"": device} if (device.type == "cuda" and to_device) or quantization else None,
            **_quantised(quantization, dtype),
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        raise unloadable(location, "model", error) from error
    # Without this check, missing weights would be initialised at random, with only a warning.
    if missing := sorted(info["missing_keys"]):
        raise PermanentError("ModelIncomplete", f"{location.name} lacks {len(missing)} weights, first {missing[0]}")
    if adapter is not None:
        model = with_adapter(model, adapter, trainable=trainable)
        if not trainable and dtype == torch.float32 and not quantization:
            model = model.merge_and_unload()
    return model.eval()


def _quantised(quantization: Quantization | None, dtype: torch.dtype) -> dict[str, Any]:
    """Arguments of `from_pretrained`, with the settings of QLoRA (arXiv 2305.14314)."""
    if quantization is None:
        return {}
    if importlib.util.find_spec("bitsandbytes") is None:
        raise PermanentError(
            "DependencyMissing",
            f"baseModel.quantization: {quantization} needs bitsandbytes: {install('train')}",
        )
    config = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    return {"quantization_config": config}


def placement(precision: Precision) -> tuple[torch.device, torch.dtype]:
    """Device and precision: `auto` is bfloat16 on a GPU that supports it, else float32.

    Raises TransientError (`GpuMissing`) if the process was given a GPU and torch finds none: another node may work.
    """
    gpu = torch.cuda.is_available()
    if not gpu and os.environ.get(GPUS_VARIABLE, "0") != "0":
        raise TransientError(
            "GpuMissing",
            f"the stage was given a GPU and torch finds none: the node's driver is too old for CUDA {torch.version.cuda}"
            " or broken; repair or exclude the node, or remove the GPU from the stage's resources",
        )
    if precision == "auto":
        precision = "bfloat16" if gpu and torch.cuda.is_bf16_supported() else "float32"
    return torch.device("cuda" if gpu else "cpu"), torch.bfloat16 if precision == "bfloat16" else torch.float32


def require_adapter(adapter: Path) -> None:
    """Raise PermanentError (`AdapterIncomplete`) if a file of an adapter is missing."""
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        if not (adapter / name).is_file():
            raise PermanentError("AdapterIncomplete", f"the adapter in {adapter} has no {name}")


def with_adapter(
    model: PreTrainedModel | PeftModel, adapter: Path, *, trainable: bool = False, name: str = "default"
) -> PeftModel:
    """The model with an adapter under a name, beside those that it has already.

    Raises PermanentError (`AdapterIncomplete`) if the adapter's weights are not exactly those that the model asks for.
    """
    try:
        if isinstance(model, PeftModel):
            model.load_adapter(adapter, adapter_name=name, is_trainable=trainable)
            wrapped = model
        else:
            wrapped = PeftModel.from_pretrained(model, adapter, adapter_name=name, is_trainable=trainable)
        with safe_open(adapter / "adapter_model.safetensors", "pt") as file:
            stored = set(file.keys())
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        message = f"the adapter in {adapter} does not fit the base model or is broken: {_first_line(error)}"
        raise PermanentError("AdapterIncomplete", message) from error
    # PEFT only warns about weights that it does not find, and leaves them at their initial value.
    if differing := sorted(set(get_peft_model_state_dict(wrapped, adapter_name=name)) ^ stored):
        message = (
            f"the adapter in {adapter} does not match the base model: {len(differing)} weights, first {differing[0]}"
        )
        raise PermanentError("AdapterIncomplete", message)
    return wrapped


def require_weights(directory: Path) -> None:
    """Raise PermanentError (`ModelIncomplete`) if a file of a model is missing, or its weights are no safetensors."""
    _require_any(directory, ("config.json",), "model")
    index = directory / "model.safetensors.index.json"
    if index.is_file():
        try:
            shards = set(json.loads(index.read_text())["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise PermanentError("ModelIncomplete", f"{index} cannot be read as a weight index") from error
        if absent := sorted(name for name in shards if not (directory / str(name)).is_file()):
            raise PermanentError("ModelIncomplete", f"{directory} lacks {absent[0]}, which {index.name} names")
    elif not (directory / "model.safetensors").is_file():
        pickled = sorted(path.name for path in directory.glob("*.bin"))
        advice = f"; {pickled[0]} is a pickle and is not read, convert it to safetensors" if pickled else ""
        raise PermanentError("ModelIncomplete", f"{directory} has no model.safetensors{advice}")


def _require_any(directory: Path, names: tuple[str, ...], what: str) -> None:
    if not directory.is_dir():
        raise PermanentError("ModelIncomplete", f"the {what}'s directory {directory} does not exist")
    if not any((directory / name).is_file() for name in names):
        raise PermanentError("ModelIncomplete", f"{directory} has no {' or '.join(names)}")


def unloadable(location: Location, what: str, error: Exception) -> StageError:
    """The error for what a library raised as it loaded a part of a model; transient if the hub could not be reached."""
    # Errors for a missing repository, a wrong revision and a gated model are subclasses of OSError, as connection errors are.
    causes = (error, error.__cause__, error.__context__)
    refused = any(
        isinstance(cause, (RepositoryNotFoundError, RevisionNotFoundError, GatedRepoError)) for cause in causes
    )
    if location.revision is None or refused or not isinstance(error, OSError):
        return PermanentError("ModelIncomplete", f"cannot load the {what} of {location.name}: {_first_line(error)}")
    message = f"cannot fetch the {what} of {location.name}@{location.revision} now: {_first_line(error)}"
    return TransientError("ModelUnavailable", message)


def _first_line(error: Exception) -> str:
    return next((redacted(line.strip()) for line in str(error).splitlines() if line.strip()), type(error).__name__)
