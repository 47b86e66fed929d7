"""Credentials: environment variables, read without stray white space and refused if they cannot be sent.

A run may read several places, each with a Secret of its own; plain `AWS_ACCESS_KEY_ID` and `HF_TOKEN` hold one only.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, MutableMapping

from .errors import PermanentError

S3_CREDENTIALS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
HUB_CREDENTIALS = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
PLACES = (
    *("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL_STS", "AWS_REGION", "AWS_DEFAULT_REGION"),
    *("AWS_PROFILE", "AWS_CA_BUNDLE", "HF_ENDPOINT", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"),
)
"""Variables beside the credentials that say where the storage and the hub are."""
SOURCES = "CREDENTIALS_"

BLANK = " \t\r\n\v\f\u00a0\u200b\ufeff"
"""What Secrets and files put around a value: blanks, line ends, a byte order mark."""


def credential_prefix(secret: str) -> str:
    """The prefix of a Secret's variables, for `envFrom.prefix`: `CREDENTIALS_MY_SECRET_`.

    Different Secrets have different prefixes: a dot becomes a lower-case `d`, which no upper-cased name contains.
    """
    return f"{SOURCES}{secret.upper().replace('-', '_').replace('.', 'd')}_"


def credential(name: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """The value of a credential's variable without white space around it; None if it is unset or empty.

    Raises PermanentError `CredentialsInvalid`, which names the variable and never the value, if no request can carry it.
    """
    value = environ.get(name)
    if not value:
        return None
    stripped = value.strip(BLANK)
    if not stripped:
        fault = "contains only blanks"
    elif not stripped.isascii():
        fault = "contains a character that is not ASCII"
    elif not stripped.isprintable():
        fault = "contains a line break or another control character"
    elif len(stripped) > 1 and stripped[0] == stripped[-1] and stripped[0] in "\"'":
        fault = "has quotation marks around it"
    else:
        return stripped
    raise PermanentError(
        "CredentialsInvalid",
        f"{name} {fault}, which no key or token has: set it again, in a cluster with "
        "kubectl create secret generic NAME --from-literal",
    )


def tidy_environment(environ: MutableMapping[str, str] = os.environ) -> None:
    """Remove white space around credentials and addresses, for libraries that read the environment themselves.

    A Secret made with `echo` ends with a line feed, and HTTP libraries refuse such a header and quote it.
    """
    names = {*S3_CREDENTIALS, *HUB_CREDENTIALS, *PLACES, *(place.lower() for place in PLACES)}
    for name, value in list(environ.items()):
        if (name in names or name.startswith(SOURCES)) and value != (stripped := value.strip(BLANK)):
            environ[name] = stripped
