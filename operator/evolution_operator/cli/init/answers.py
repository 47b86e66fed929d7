"""The answers that `evolution init` needs: from flags, from questions on a terminal, or from what lies in the directory."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar, cast, get_args
from urllib.parse import quote

from evolution_jobs.contract.document import Document
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.locations import BaseModelSource, Source, Storage
from pydantic import ValidationError

from ...api.messages import explain
from .manifest import Answers, Where

Place = TypeVar("Place", bound=Document)
Ask = Callable[[str, str | None], str]
"""Asks a question with a default, and returns the answer."""

SMALL_MODEL = "hf://HuggingFaceTB/SmolLM2-135M-Instruct"
"""The default: openly licensed, and it runs on any machine."""
MACHINE_STORAGE = Storage(uri="file://runs")
TRIAL_STORAGE = Storage(
    uri="s3://evolution/runs",
    endpoint="http://evo-evolution-operator-minio.evolution:9000",
    credentials_secret="evolution-storage",  # noqa: S106 -- a name
)
"""The MinIO that the chart installs with `minio.enabled`."""
ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".jsonl.gz", ".json.gz")
FORMATS = ("esconv", "extes", "messages", "sharegpt")
"""Formats of dialogues that need nothing else."""
FLAGS: Mapping[int | str, str] = {"endpoint": "--endpoint", "credentialsSecret": "--credentials-secret"}
"""Flags of single fields of the storage."""
SIZE = 40
"""Most characters of a run's name."""


@dataclass(frozen=True)
class Flags:
    """What the command line says."""

    where: str | None = None
    model: str | None = None
    data: str | None = None
    format: str | None = None
    name: str | None = None
    storage: str | None = None
    endpoint: str | None = None
    credentials_secret: str | None = None
    gpus: int | None = None


def gather(flags: Flags, target: Path, ask: Ask | None) -> Answers:
    """The answers: flags first, then questions if there is a terminal (`ask`), then defaults.

    Raises PermanentError `InitInput`, and what reading the data file raises.
    """
    where = _where(flags, ask)
    if flags.gpus is not None and where == "machine":
        raise PermanentError(
            "InitInput", "--gpus: a run on this machine takes those that it has; it goes with --where cluster"
        )
    model = flags.model or (ask("Base model (hf://owner/model, or a directory)", SMALL_MODEL) if ask else SMALL_MODEL)
    storage = _storage(flags, where)
    place = flags.data or _asked_data(target.parent, ask)
    data, sure = _data(place, flags, where, storage, target.parent, ask)
    return Answers(
        name=_name(flags.name, target.parent),
        where=where,
        model=_valid("--model", BaseModelSource, {"uri": _model_uri(model, target.parent)}),
        data=data,
        storage=storage,
        gpus=(1 if flags.gpus is None else flags.gpus) if where == "cluster" else 0,
        sure=sure,
        upload=place if where == "cluster" and _is_local(place) else None,
    )


def _where(flags: Flags, ask: Ask | None) -> Where:
    where = flags.where or (ask("Where will it run: machine (this one) or cluster?", "machine") if ask else "machine")
    if where not in get_args(Where):
        raise PermanentError("InitInput", f"--where: {where!r} is neither machine nor cluster")
    return cast(Where, where)


def _storage(flags: Flags, where: Where) -> Storage:
    given = {"endpoint": flags.endpoint, "credentialsSecret": flags.credentials_secret}
    more = {name: value for name, value in given.items() if value is not None}
    default = TRIAL_STORAGE if where == "cluster" else MACHINE_STORAGE
    place = flags.storage
    if place is not None and re.match(r"(s3|file):(?!//)", place):
        raise PermanentError("InitInput", f"--storage: {place} is neither s3://bucket/prefix nor a directory")
    if place is None:
        return _valid("--storage", Storage, default.wire() | more)
    if "://" not in place:
        place = Path(place).absolute().as_uri()
    if where == "cluster" and place.startswith("file://"):
        raise PermanentError("InitInput", f"--storage: {place} is on this machine; Pods need s3://bucket/prefix")
    return _valid("--storage", Storage, {"uri": place, **more})


def _model_uri(model: str, directory: Path) -> str:
    if "://" in model:
        return model
    if Path(model).is_dir():
        return _file_uri(Path(model), directory)
    if re.fullmatch(r"[\w.-]+/[\w.-]+", model):
        return f"hf://{model}"
    raise PermanentError("InitInput", f"--model: {model!r} is no directory, and no model of the hub (owner/model)")


def _is_local(place: str) -> bool:
    return "://" not in place or place.startswith("file://")


def _data(
    place: str, flags: Flags, where: Where, storage: Storage, directory: Path, ask: Ask | None
) -> tuple[Source, bool]:
    """The source at a place, and whether it is known who helps whom in it."""
    if not _is_local(place):
        return _valid("--data", Source, {"uri": place, "format": flags.format or _asked_format(place, ask)}), True
    path = Path(place.removeprefix("file://"))
    if not path.exists():
        raise PermanentError("InitInput", f"--data: there is no file {path}")
    uri = _file_uri(path, directory)
    if where == "cluster":
        folder = "/" if path.is_dir() else ""
        uri = f"s3://{storage.uri.split('/')[2]}/data/{path.absolute().name}{folder}"
    if flags.format:
        return _valid("--format", Source, {"uri": uri, "format": flags.format}), True
    return _guessed(path, uri, ask)


def _guessed(path: Path, uri: str, ask: Ask | None) -> tuple[Source, bool]:
    # Only here, because it takes a second to import.
    from evolution_jobs.data.guess import guess

    file = next(iter(data_files(path)), path) if path.is_dir() else path
    found = guess(file, uri)
    if found is None:
        return _valid("--format", Source, {"uri": uri, "format": _asked_format(str(file), ask)}), True
    if found[0].format == "alpaca":
        words = "holds instructions, not dialogues: name a file of dialogues, and put this one into data.replay"
        raise PermanentError("InitInput", f"--data: {file} {words}")
    return found


def _asked_data(directory: Path, ask: Ask | None) -> str:
    found = data_files(Path.cwd()) or data_files(directory)
    if ask:
        return ask("Dialogues (a file, hf://owner/dataset or s3://bucket/key)", str(found[0]) if found else None)
    if len(found) == 1:
        return str(found[0])
    seen = f"; there are {', '.join(map(str, found[:5]))}" if found else ""
    raise PermanentError(
        "InitInput", f"--data is missing: a file of dialogues, hf://owner/dataset or s3://bucket/key{seen}"
    )


def _asked_format(place: str, ask: Ask | None) -> str:
    known = ", ".join(FORMATS)
    if ask:
        return ask(f"Format of {place} ({known})", None)
    raise PermanentError(
        "InitInput",
        f"--format is missing, and cannot be told from {place}: {known}; for other layouts, take one of these and write a "
        "mapping into the file (docs/data.md)",
    )


def data_files(directory: Path) -> list[Path]:
    """Files that may be data sets: in a directory, or in its folder `data`. Relative paths stay short."""
    folders = [directory, directory / "data"]
    found = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
    files = [path for path in found if path.is_file() and path.name.endswith(ENDINGS)]
    here = Path.cwd()
    return [path.relative_to(here) if path.is_relative_to(here) else path for path in files]


def _file_uri(path: Path, directory: Path) -> str:
    """The path as a run file in a directory names it: relative if it is below."""
    whole, root = path.absolute(), directory.absolute()
    if whole.is_relative_to(root) and whole != root:
        return f"file://{quote(whole.relative_to(root).as_posix())}"
    return Path(os.path.normpath(whole)).as_uri()


def _name(given: str | None, directory: Path) -> str:
    if given is not None:
        return given
    plain = re.sub(r"[^a-z0-9]+", "-", directory.absolute().name.lower()).strip("-")[:SIZE].strip("-")
    return plain or "first"


def _valid(flag: str, model: type[Place], document: Mapping[str, Any]) -> Place:
    try:
        return model.model_validate(dict(document))
    except ValidationError as error:
        (first, *_) = error.errors(include_url=False)
        # A broken rule names its field and is about the whole document.
        field, words = first["ctx"]["faults"][0] if first["type"] == "rule" else (first["loc"][0], explain([first]))
        raise PermanentError("InitInput", f"{FLAGS.get(field, flag)}: {words}") from None
