"""Which shard of a stage this process is."""

from __future__ import annotations

import os

from ..contract.errors import PermanentError
from ..contract.stage import Shard, StageSpec
from ..contract.variables import SHARD_VARIABLE


def on_this_shard(spec: StageSpec) -> StageSpec:
    """The spec with the index that Kubernetes gives to a Pod of an Indexed Job; elsewhere the spec itself has it.

    Raises PermanentError `SpecInvalid` if the index is no number or not below the number of shards.
    """
    named = os.environ.get(SHARD_VARIABLE)
    if named is None or spec.shard.count == 1:
        index = spec.shard.index
    elif named.isdecimal():
        index = int(named)
    else:
        raise PermanentError("SpecInvalid", f"{SHARD_VARIABLE}: {named!r} is not a number")
    if index >= spec.shard.count:
        raise PermanentError("SpecInvalid", f"shard.index: {index} is not below shard.count, {spec.shard.count}")
    return spec.model_copy(update={"shard": Shard(index=index, count=spec.shard.count)})
