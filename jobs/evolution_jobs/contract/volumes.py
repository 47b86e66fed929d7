"""Where Jobs mount volumes and stages look for them."""

from __future__ import annotations

from pathlib import Path

SPEC_DIRECTORY = Path("/etc/evolution")
"""Where a Pod has its own spec."""
PVC_ROOT = Path("/mnt/pvc")
"""`pvc://claim/path` lies at `<root>/<claim>/<path>`."""

MODEL_CACHE = Path("/mnt/model-cache")
"""Where a stage's Pod has the model cache."""


def mounted_path(uri: str) -> Path | None:
    """The directory of a `pvc://claim/path`; None if the path points outside its volume or the claim has no name."""
    claim, _, path = uri.removeprefix("pvc://").partition("/")
    return PVC_ROOT / claim / path if claim and ".." not in (claim, *path.split("/")) else None
