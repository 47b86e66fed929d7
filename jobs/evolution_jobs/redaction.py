"""Keeps credentials out of everything that leaves a process: reports, logs, tracebacks, what libraries print.

Libraries quote what they refuse: an HTTP library repeats a whole `Authorization` header, a parser a whole URL.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any, TextIO, cast
from urllib.parse import quote, quote_plus, urlsplit

_SECRET = re.compile(r"(^|_)(TOKEN|SECRET|PASSWORD|PASSWD|API_KEY|ACCESS_KEY(_ID)?)$", re.IGNORECASE)
"""Variables whose value is a credential, those of a source's Secret included."""
_ADDRESS = re.compile(r"(_URL|_URL_S3|_ENDPOINT|_PROXY)$", re.IGNORECASE)
"""Variables whose value may be a URL with a password."""
SHORTEST = 8
"""Fewest characters of a credential that is looked for. AWS, MinIO and the hub issue none that is shorter."""

HIDDEN = "<hidden>"
_PATTERNS = (
    (re.compile(r"\b(https?|socks\w*|ftp)://[^\s/\"'<>]*@", re.IGNORECASE), rf"\1://{HIDDEN}@"),
    (re.compile(r"\b(Bearer|Authorization: \w+) +[^\s\"'\\]{8,}", re.IGNORECASE), rf"\1 {HIDDEN}"),
    (re.compile(r"\b(hf_|api_org_)\w{12,}"), HIDDEN),
    (re.compile(r"\b(AKIA|ASIA)[A-Z0-9]{16}\b"), HIDDEN),
    (
        re.compile(
            r"\b((?:x-amz-)?(?:credential|signature|security-token)|awsaccesskeyid|access_token|password|sig)"
            r"=[^\s&,;\"'<>]+",
            re.IGNORECASE,
        ),
        rf"\1={HIDDEN}",
    ),
)
"""Credentials that are in no variable: in headers, presigned URLs, and of boto3's other sources."""


def redacted(text: str, environ: Mapping[str, str] = os.environ) -> str:
    """The text with each credential replaced by the name of its variable, or by `<hidden>`."""
    for form, name in _forms(tuple((name, value) for name, value in environ.items() if _counts(name, value))):
        text = text.replace(form, f"<{name}>")
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return text


def words_of(error: BaseException, limit: int = 300) -> str:
    """The text of a library's error for a message: one line, without credentials, at most `limit` characters."""
    return redacted(" ".join(str(error).split()))[:limit]


def redact_output() -> None:
    """Remove credentials from what this process writes to standard output and standard error from now on."""
    if not isinstance(sys.stdout, _Redacting):
        sys.stdout = cast(TextIO, _Redacting(sys.stdout))
    if not isinstance(sys.stderr, _Redacting):
        sys.stderr = cast(TextIO, _Redacting(sys.stderr))


class _Redacting:
    """A text stream that redacts each piece of text before it is written."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(redacted(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __iter__(self) -> Iterator[str]:
        return iter(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _counts(name: str, value: str) -> bool:
    if _ADDRESS.search(name):
        return "@" in value
    # A user name such as "evolution" is a word that messages use for other things.
    is_word = name.endswith("ACCESS_KEY_ID") and re.fullmatch(r"\s*[a-z]+\s*", value) is not None
    return len(value) >= SHORTEST and not is_word and _SECRET.search(name) is not None


@lru_cache(maxsize=8)
def _forms(variables: tuple[tuple[str, str], ...]) -> list[tuple[str, str]]:
    """Each way in which a credential may be written, with its variable; longest first."""
    forms = {form: name for name, value in variables for part in _parts(name, value) for form in _written(part)}
    return sorted(forms.items(), key=lambda pair: -len(pair[0]))


def _parts(name: str, value: str) -> list[str]:
    if _ADDRESS.search(name):
        try:
            parts = [urlsplit(value).password or ""]
        except ValueError:
            parts = []
    else:
        # White space may have become one blank, or an escape.
        parts = value.split()
    return [part for part in parts if len(part) >= SHORTEST]


def _written(value: str) -> set[str]:
    raw = value.encode("utf-8", "surrogateescape")
    return {
        *(value, repr(value)[1:-1], ascii(value)[1:-1], repr(raw)[2:-1], json.dumps(value)[1:-1]),
        *(quote(raw, safe=""), quote(raw), quote_plus(raw)),
    }
