"""Kubernetes quantities: 500m, 4, 32Gi (k8s.io/apimachinery/pkg/api/resource)."""

from __future__ import annotations

import re
from decimal import Decimal

QUANTITY = r"^\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)([numkMGTPE]|[KMGTPE]i|[eE][-+]?[0-9]{1,2})?$"
"""A quantity that is not negative."""

_PARTS = re.compile(r"\+?([0-9.]+)([numkMGTPE]|[KMGTPE]i|[eE][-+]?[0-9]+)?")
_DECIMAL = {"n": -9, "u": -6, "m": -3, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY: dict[str, int] = {unit: 1024**power for power, unit in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), 1)}

_WRITTEN = re.compile(r"([0-9]+(?:[.,][0-9]+)?)\s*([a-zA-Z]*)")
"""A number and a unit as people write them."""
_CORES = frozenset({"core", "cores", "cpu", "cpus", "vcpu", "vcpus", "thread", "threads", "gpu", "gpus"})


def amount(quantity: str | int) -> Decimal | None:
    """The quantity as a number of bytes, cores or devices; None if it is not a quantity."""
    text = str(quantity)
    if not re.fullmatch(QUANTITY.strip("^$"), text):
        return None
    parts = _PARTS.fullmatch(text)
    assert parts is not None, "a quantity has these parts"
    number, suffix = str(parts[1]), parts[2]
    value = Decimal(number)
    if suffix in _BINARY:
        return value * _BINARY[suffix]
    exponent = _DECIMAL.get(suffix or "", 0) if suffix in (None, *_DECIMAL) else int(suffix[1:])
    return value.scaleb(exponent)


def no_quantity(text: str) -> str:
    """The message for text that is not a quantity, with what was probably meant."""
    meant = " or ".join(_meant(text))
    advice = f"write {meant}" if meant else "write a number, with a unit where there is one: 4, 500m, 32Gi"
    return f"is not a Kubernetes quantity: {advice}, not {text!r}"


def probable_amount(quantity: str | int) -> Decimal | None:
    """The quantity as a number, or that of what was probably meant; None if that is not known."""
    number = amount(quantity)
    return number if number is not None else next(map(amount, _meant(str(quantity))), None)


def _meant(text: str) -> list[str]:
    """The quantities that a text may stand for."""
    written = _WRITTEN.fullmatch(text.strip())
    if written is None:
        return []
    number, unit = written[1].replace(",", "."), written[2].lower()
    if not unit or unit in _CORES:
        return [number]
    letter = unit[0]
    if letter in "kmgtpe" and unit[1:] in ("", "i", "b", "ib", "bytes", "byte"):
        decimal = "k" if letter == "k" else letter.upper()
        binary = f"{letter.upper()}i"
        return [f"{number}{binary}"] if unit[1:].startswith("i") else [f"{number}{binary}", f"{number}{decimal}"]
    return [f"{number}m"] if unit in ("milli", "millicore", "millicores") else []
