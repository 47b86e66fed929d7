"""Which named test sets are of data that the run never trains on: their figures show generalisation to another data set."""

from __future__ import annotations

from collections.abc import Sequence

from ..contract.locations import Source
from ..contract.settings import DataSettings


def never_trained_on(settings: DataSettings) -> list[str]:
    """Names of the sets of `data.test` that share no data set with `data.seed`, `data.replay` or `data.contexts`, sorted.

    Two sources are of one data set if one's URI is the other's or lies below it, or if they have the same name. The split,
    the configuration and the revision do not count: another split of a data set that is trained on has its style.
    What the base model was trained on is not known.
    """
    trained = [*settings.seed, *settings.replay, *settings.contexts]
    sets: dict[str, list[Source]] = {}
    for source in settings.test:
        if source.name:
            sets.setdefault(source.name, []).append(source)
    return sorted(name for name, sources in sets.items() if not _share(sources, trained))


def _share(sources: Sequence[Source], others: Sequence[Source]) -> bool:
    return any(_of_one(source, other) for source in sources for other in others)


def _of_one(first: Source, second: Source) -> bool:
    if first.name is not None and first.name == second.name:
        return True
    one, other = (f"{each.uri.rstrip('/')}/" for each in (first, second))
    return one.startswith(other) or other.startswith(one)
