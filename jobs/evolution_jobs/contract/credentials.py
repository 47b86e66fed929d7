"""Credentials of data sources: environment variables named after their Secret.

A run may read several places, each with a Secret of its own; plain `AWS_ACCESS_KEY_ID` and `HF_TOKEN` hold one only.
"""

from __future__ import annotations


def credential_prefix(secret: str) -> str:
    """The prefix of a Secret's variables, for `envFrom.prefix`: `CREDENTIALS_MY_SECRET_`.

    Different Secrets have different prefixes: a dot becomes a lower-case `d`, which no upper-cased name contains.
    """
    return f"CREDENTIALS_{secret.upper().replace('-', '_').replace('.', 'd')}_"
