"""Addresses of data sets and models as people write them elsewhere, and what to write here instead. Pure."""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import unquote, urlsplit

Kind = Literal["dataset", "model"]

HUB_ADDRESS = r"^hf://[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9._-]+$"
"""`hf://owner/name`, as a regular expression of RE2 and Python."""
HUB_KINDS = r"^hf://(datasets|models|spaces)/"
"""The first part that other tools write, and no owner has."""
SHELL_PATH = r"^file:///?(~[A-Za-z0-9_-]*/|[$]|%[A-Za-z_]{4,}%|[A-Za-z]:[^A-Za-z0-9])"
"""A path that begins with a home directory or a variable, which only a shell expands, or with a drive of Windows."""
S3_OBJECT = "^s3://[^/]+/."
"""A bucket and something in it."""

_HUB_HOSTS = ("huggingface.co", "www.huggingface.co", "hf.co", "hf-mirror.com")
_PAGES = ("tree", "blob", "resolve", "raw", "viewer", "discussions", "settings")
_S3_HOST = re.compile(r"(?:(?P<bucket>.+)\.)?s3[.-](?:dualstack\.)?(?:[a-z0-9-]+\.)?amazonaws\.com(?:\.cn)?$")
_S3_KINDS = ("s3a", "s3n", "minio", "r2", "oss", "cos", "obs", "b2", "wasabi", "ceph", "tos", "bos")
_AZURE = ("az", "azure", "abfs", "abfss", "wasb", "wasbs", "adl")
_NAMED = r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"
_SHORT = {"~parquet": "refs/convert/parquet", "~duckdb": "refs/convert/duckdb"}
"""Short names that the hub gives its converted branches."""


def proper(uri: str, kind: Kind) -> bool:
    """Whether an address with one of our schemes can name something: the rules that the API server checks, too."""
    if uri.startswith("hf://"):
        return bool(re.search(HUB_ADDRESS, uri)) and not re.search(HUB_KINDS, uri)
    if uri.startswith("s3://") and kind == "dataset":
        return bool(re.search(S3_OBJECT, uri))
    return not re.search(SHELL_PATH, uri)


def advice(uri: str, kind: Kind) -> str | None:
    """What to write instead of an address that cannot be used; None if it looks right or nothing is known about it."""
    if uri != uri.strip():
        return "remove the blanks around it"
    scheme, colon, rest = uri.partition("://")
    if not colon:
        return _path(uri, kind)
    lower = scheme.lower()
    if lower in ("http", "https"):
        return _web(uri, kind)
    if scheme != lower and lower in ("hf", "s3", "file", "pvc", "package"):
        return f"write {lower}:// in small letters"
    if lower in ("hf", "huggingface"):
        return _hub(rest, kind)
    if lower == "s3":
        return None if proper(uri, kind) else "write s3://bucket/key for an object, or s3://bucket/folder/ for a folder"
    if lower == "file":
        return None if proper(uri, kind) else _path(rest.lstrip("/"), kind)
    if lower == "pvc" and kind == "dataset":
        return "mount the volume with prepare.pod.volumes, then write file:///mountPath/..."
    return None if lower in ("pvc", "package") and kind == "model" else _elsewhere(lower, rest)


def _path(text: str, kind: Kind) -> str:
    if re.match(r"file:", text, re.IGNORECASE):
        return f"write file:///{text[5:].lstrip('/')}"
    if drive := re.match(r"([A-Za-z]):[^A-Za-z0-9]|\\\\", text):
        seen = f"/mnt/{drive[1].lower()}/{text[3:]}".replace("\\", "/") if drive[1] else "/mnt/c/..."
        return f"this is a path of Windows: write it as Linux sees it, in WSL file://{seen}"
    if re.match(r"~|[$]|%\w+%", text):
        return "write file:///path with the whole path: ~ and variables such as $HOME are not expanded"
    if re.match(r"dbfs:|hdfs:", text):
        return _elsewhere(text.partition(":")[0], "")
    if text.startswith("/"):
        return f"write file://{text}"
    if re.fullmatch(_NAMED, text) and not re.search(r"\.(jsonl?|csv|tsv|parquet|gz|gguf|safetensors)$", text):
        return f"write hf://{text} for the hub, or file://{text} for a path relative to the run file"
    return f"write file://{text.removeprefix('./')} for a path relative to the run file"


def _hub(rest: str, kind: Kind) -> str | None:
    """`rest` is what follows `hf://`: the forms of fsspec (pandas, DuckDB, Polars) and of `huggingface_hub`."""
    first, _, others = rest.partition("/")
    if first in _HUB_KINDS:
        if _HUB_KINDS[first] != kind:
            return f"hf://{first}/ names no {_WORDS[kind]}: write hf://owner/name of one"
        rest = others
    found = re.fullmatch(r"(?P<name>[^@]*)@(?P<revision>refs/(?:convert|pr)/[^/]+|[^/]+)(?P<path>/.*)?", rest)
    revision = unquote(found["revision"]) if found else None
    name = found["name"] if found else rest
    owner, _, inner = name.strip("/").partition("/")
    title, _, path = inner.partition("/")
    if not re.fullmatch(_NAMED, f"{owner}/{title}"):
        return _unnamed(kind)
    file = path or (found["path"].strip("/") if found and found["path"] else "")
    if first == rest.partition("/")[0] and not file and not revision and proper(f"hf://{rest}", kind):
        return None
    return _named(owner, title, revision, bool(file), kind)


_WORDS: dict[Kind, str] = {"dataset": "data set", "model": "model"}
_HUB_KINDS: dict[str, Kind | None] = {"datasets": "dataset", "models": "model", "spaces": None}


def _unnamed(kind: Kind) -> str:
    return f"write hf://owner/name: the {_WORDS[kind]}'s page on the hub shows its owner before the name"


def _named(owner: str, name: str, revision: str | None, file: bool, kind: Kind) -> str:
    advised = f"write hf://{owner}/{name}"
    if revision not in (None, "main"):
        advised += f" and revision: {_SHORT.get(str(revision), revision)}"
    if file and kind == "dataset":
        advised += ", without a file; choose rows by config: and split:"
    elif file:
        advised += ", without a file: a model is its whole repository"
    return advised


def _web(uri: str, kind: Kind) -> str:
    """Never repeats a query or a user of the address: both may hold credentials."""
    try:
        parts = urlsplit(uri)
        host, path = (parts.hostname or "").lower(), [unquote(part) for part in parts.path.split("/") if part]
    except ValueError:
        return "this is no address that can be read"
    if host in _HUB_HOSTS:
        return _hub_page(path, kind)
    if found := _S3_HOST.fullmatch(host):
        where = [found["bucket"], *path] if found["bucket"] else path
        return f"write s3://{'/'.join(where)}" if len(where) > 1 else "write s3://bucket/key"
    if host == "storage.googleapis.com" and len(path) > 1:
        return _elsewhere("gs", "/".join(path))
    name = path[-1] if path and kind == "dataset" else "..."
    return f"a web page or download is not fetched: download it, then write file:///path/{name} or s3://bucket/{name}"


def _hub_page(path: list[str], kind: Kind) -> str:
    dataset = path[:1] == ["datasets"]
    if path[:1] == ["spaces"] or dataset != (kind == "dataset"):
        return f"this is not the page of a {_WORDS[kind]} on the hub: write hf://owner/name of one"
    names = path[1:] if dataset else path
    if len(names) < 2 or names[1] in _PAGES:
        return _unnamed(kind)
    owner, name, *page = names
    if page[:1] == ["viewer"] and len(page) > 2:
        return f"write hf://{owner}/{name}, config: {page[1]} and split: {page[2]}"
    revision = "/".join(page[1:4]) if page[1:2] == ["refs"] else page[1] if len(page) > 1 else None
    file = len(page) > (4 if page[1:2] == ["refs"] else 2)
    return _named(owner, name, revision, file, kind)


def _elsewhere(scheme: str, rest: str) -> str:
    if scheme in ("gs", "gcs"):
        return f"write s3://{rest or 'bucket/key'} with endpoint: https://storage.googleapis.com and HMAC keys as its Secret"
    if scheme in _S3_KINDS:
        return f"write s3://{rest or 'bucket/key'}" + ("" if scheme in ("s3a", "s3n") else ", with its endpoint:")
    if scheme in _AZURE:
        return "Azure's storage has no S3 interface: copy it to a bucket (s3://) or a directory (file://)"
    return "copy it to a bucket (s3://), a directory (file://) or the hub (hf://)"
