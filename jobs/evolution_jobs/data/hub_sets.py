"""Data sets of the hub, pinned to a commit. No code of a data set is run: `datasets` reads only data files."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from ..contract.errors import PermanentError
from ..contract.locations import Source
from ..models.hub import Pinned, explained
from .json_text import JsonReader
from .record import Record
from .tables import with_turns

_LISTED = 20
"""Most configurations or splits in a message."""


def data_set_records(pinned: Pinned, source: Source, token: str | None, field: str, turns: str) -> Iterator[Record]:
    """Rows of one split of one configuration. `turns` is the column that holds the turns.

    Raises PermanentError (`DataMissing`, `DataMalformed`, those of the hub) or TransientError.
    """
    import datasets
    from datasets.data_files import EmptyDatasetError

    split = source.split or "train"
    with explained(f"{field}.uri: {pinned.uri}"):
        try:
            rows = datasets.load_dataset(pinned.name, source.config, revision=pinned.commit, split=split, token=token)
        except datasets.exceptions.DatasetNotFoundError:
            raise
        except (ValueError, RuntimeError, datasets.exceptions.DatasetsError, EmptyDatasetError) as error:
            raise _fault(error, pinned, source, token, field) from error
    json = JsonReader()
    for number, row in enumerate(rows, start=1):
        yield with_turns(Record(f"row {number}", row), turns, json)


def _fault(error: Exception, pinned: Pinned, source: Source, token: str | None, field: str) -> PermanentError:
    """What to do about an error of `datasets`, whose own words tell how to program with it."""
    import datasets
    from datasets.data_files import EmptyDatasetError

    def listed(names: Callable[..., list[str]], *which: str | None) -> list[str]:
        try:
            return names(pinned.name, *which, revision=pinned.commit, token=token)
        except (ValueError, RuntimeError, OSError, datasets.exceptions.DatasetsError):
            return []

    where = f"{field}.uri: {pinned.uri}"
    if isinstance(error, (datasets.exceptions.DataFilesNotFoundError, EmptyDatasetError)):
        return PermanentError("DataMissing", f"{where} holds no data files (JSON Lines, JSON, CSV, Parquet, text)")
    if isinstance(error, datasets.exceptions.DatasetGenerationCastError):
        advice = "its files have different columns: choose those of one kind by config:"
        return PermanentError("DataMalformed", f"{where} cannot be read as data files: {advice}")
    if isinstance(error, RuntimeError) and "script" in str(error):
        advice = (
            "it needs a script of its own, which is never run: use data files, often at revision: refs/convert/parquet"
        )
        return PermanentError("DataMalformed", f"{where} cannot be read as data files: {advice}")
    if isinstance(error, ValueError):
        configs = listed(datasets.get_dataset_config_names)
        splits = listed(datasets.get_dataset_split_names, source.config)
        if source.config is None and len(configs) > 1 and not splits:
            advice = f"has several configurations and none is its default: name one by config: ({_names(configs)})"
            return PermanentError("DataMissing", f"{where} {advice}")
        if source.config is not None and source.config not in configs:
            known = f"; it has {_names(configs)}" if configs else ""
            return PermanentError("DataMissing", f"{field}.config: {pinned.uri} has no {source.config!r}{known}")
        asked = re.match(r"[\w.-]+", source.split or "train")
        if asked is None or asked[0] not in splits:
            known = f"; it has {_names(splits)}" if splits else ""
            return PermanentError(
                "DataMissing", f"{field}.split: {pinned.uri} has no {source.split or 'train'!r}{known}"
            )
    advice = "one of them is damaged, or is not what its name says"
    return PermanentError("DataMalformed", f"{where} cannot be read as data files: {advice}")


def _names(names: list[str]) -> str:
    more = f", and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
