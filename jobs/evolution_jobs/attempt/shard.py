"""Which shard of a stage this process is, or on which node of several that train together."""

from __future__ import annotations

import os

from ..contract.errors import PermanentError
from ..contract.stage import Shard, StageSpec
from ..contract.variables import SHARD_VARIABLE


def on_this_shard(spec: StageSpec) -> StageSpec:
    """The spec with the index that Kubernetes gives to a Pod of an Indexed Job; elsewhere the spec itself has it.

    Raises PermanentError `SpecInvalid` if the index is no number or not below the number of shards.
    """
    index = spec.shard.index if spec.shard.count == 1 else _index(spec.shard.index)
    if index >= spec.shard.count:
        raise PermanentError("SpecInvalid", f"shard.index: {index} is not below shard.count, {spec.shard.count}")
    return spec.model_copy(update={"shard": Shard(index=index, count=spec.shard.count)})


def node(spec: StageSpec) -> int:
    """The node of this process, from 0. Raises PermanentError `SpecInvalid` as `on_this_shard` does."""
    index = 0 if spec.ranks.nodes == 1 else _index(0)
    if index >= spec.ranks.nodes:
        raise PermanentError("SpecInvalid", f"{SHARD_VARIABLE}: {index} is not below ranks.nodes, {spec.ranks.nodes}")
    return index


def _index(default: int) -> int:
    named = os.environ.get(SHARD_VARIABLE)
    if named is None:
        return default
    if not named.isdecimal():
        raise PermanentError("SpecInvalid", f"{SHARD_VARIABLE}: {named!r} is not a number")
    return int(named)
