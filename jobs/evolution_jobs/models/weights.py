"""The tensors of a safetensors file, from its header alone: names, types and shapes. Pure.

The format: 8 bytes with the header's length, the header (JSON), the data
(https://huggingface.co/docs/safetensors/index#format).
"""

from __future__ import annotations

import json
from typing import NamedTuple

LENGTH = 8
"""Bytes that hold the header's length."""
LONGEST_HEADER = 100_000_000
"""Bytes. The safetensors library refuses longer ones, too."""


class Tensor(NamedTuple):
    """What a header says of one tensor."""

    dtype: str
    """As the format names it: F32, BF16, I8, ..."""
    shape: tuple[int, ...]


def header_end(start: bytes) -> int:
    """Where the header ends, from the file's first 8 bytes. Raises ValueError if the file cannot be safetensors."""
    length = int.from_bytes(start[:LENGTH], "little")
    if len(start) < LENGTH or not 2 <= length <= LONGEST_HEADER:
        raise ValueError("it has no safetensors header")
    return LENGTH + length


def read_header(start: bytes, size: int) -> dict[str, Tensor]:
    """Every tensor of a file of `size` bytes that begins with `start`, its whole header.

    Raises ValueError if it is no header, or if the file is shorter or longer than the header says.
    """
    end = header_end(start)
    try:
        header = json.loads(start[LENGTH:end])
        header.pop("__metadata__", None)
        tensors = {name: Tensor(str(each["dtype"]), tuple(map(int, each["shape"]))) for name, each in header.items()}
        needed = end + max((int(each["data_offsets"][1]) for each in header.values()), default=0)
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("it has no safetensors header") from error
    if size != needed:
        raise ValueError(f"it has {size} bytes and its header says {needed}")
    return tensors
