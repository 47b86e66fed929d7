"""How a stage's process is given credentials that are not the storage's: environment variables named after the Secret.

A run may read several places, each with a Secret of its own; plain `AWS_ACCESS_KEY_ID` and `HF_TOKEN` could hold one.
"""

from __future__ import annotations


def credential_prefix(secret: str) -> str:
    """What the names of a Secret's variables begin with, for `envFrom.prefix`: `CREDENTIALS_MY_SECRET_`.

    Different Secrets have different prefixes: a dot becomes a lower-case `d`, which no upper-cased name holds.
    """
    return f"CREDENTIALS_{secret.upper().replace('-', '_').replace('.', 'd')}_"
