"""Where Jobs mount volumes and stages look for them."""

from __future__ import annotations

from pathlib import Path

PVC_ROOT = Path("/mnt/pvc")
"""`pvc://claim/path` lies at `<root>/<claim>/<path>`."""
