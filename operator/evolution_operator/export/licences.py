"""Licences of the base model and of the data, and the one that the model card names. What is not known stays unknown. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

UNKNOWN = "unknown"
ESCONV = "cc-by-nc-4.0"

BY_URI = {
    "hf://thu-coai/esconv": ESCONV,
    "hf://tatsu-lab/alpaca": "cc-by-nc-4.0",
}
"""Licences of data sets of the hub, as their own pages state them."""

BY_FORMAT = {"esconv": ESCONV}
"""A file in ESConv's layout counts as ESConv, unless the user says otherwise."""

PERMISSIVE = frozenset({"apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-4.0", "unlicense"})
"""Licences that take no other licence's place: each only asks to be named."""

NON_COMMERCIAL = frozenset({"cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0", "cc-by-nc-2.0", "cc-by-nc-3.0"})

ON_HUB = frozenset(
    """
    afl-3.0 agpl-3.0 apache-2.0 apple-amlr apple-ascl artistic-2.0 bigcode-openrail-m bigscience-bloom-rail-1.0
    bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear bsl-1.0 c-uda cc cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
    cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 cdla-sharing-1.0 creativeml-openrail-m deepfloyd-if-license ecl-2.0 epl-1.0 epl-2.0 etalab-2.0
    eupl-1.1 eupl-1.2 fair-noncommercial-research-license gemma gfdl gpl gpl-2.0 gpl-3.0 grok2-community h-research
    intel-research isc lgpl lgpl-2.1 lgpl-3.0 lgpl-lr llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 lppl-1.3c mit
    mpl-2.0 ms-pl ncsa odbl odc-by ofl-1.1 openmdw-1.0 openrail openrail++ osl-3.0 other pddl postgresql unknown
    unlicense wtfpl zlib
    """.split()  # noqa: SIM905 -- as a list, the names fill two screens
)
"""Names that the hub takes in `license`: https://huggingface.co/docs/hub/repositories-licenses"""


class Licence(NamedTuple):
    """What the card's `license` fields say."""

    license: str
    """A name that the hub knows, else `other`."""
    name: str | None = None
    """With `other`: which licences have to be kept."""

    @property
    def words(self) -> str:
        """For sentences."""
        return self.name or self.license


def of_data(uri: str, layout: str, stated: str | None = None) -> str:
    """The licence of a data source: as the user states it, else by its address, else by its layout, else unknown."""
    return stated or BY_URI.get(uri.rstrip("/").lower()) or BY_FORMAT.get(layout, UNKNOWN)


def strictest(licences: Iterable[str]) -> Licence:
    """The licence of a model that is made of parts under these.

    One that restricts takes the place of those that do not. Where several restrict, or one is unknown, no single name
    is right, and all are named.
    """
    found = dict.fromkeys(each.lower() if each.lower() in ON_HUB else each for each in licences)
    binding = [each for each in found if each not in PERMISSIVE]
    if not binding:
        return Licence(next(iter(sorted(found, key=lambda each: each != "apache-2.0")), UNKNOWN))
    if binding == [UNKNOWN]:
        return Licence("other", UNKNOWN)
    if len(binding) == 1:
        return Licence(binding[0]) if binding[0] in ON_HUB else Licence("other", binding[0])
    return Licence("other", "-and-".join(sorted(binding, key=lambda each: (each == UNKNOWN, each))))
