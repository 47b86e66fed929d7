"""Where data, models and artifacts lie: URIs with what is needed to read them."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from .addresses import HUB_ADDRESS, HUB_KINDS, S3_OBJECT, SHELL_PATH, Kind, advice, proper
from .document import Document, Rule


def only_with_scheme(field: str, scheme: str) -> Rule:
    """The rule that a field (wire name) is allowed only with a `uri` of this scheme."""

    def holds(document: Document) -> bool:
        values = document.wire()
        return field not in values or values["uri"].startswith(f"{scheme}://")

    return Rule(
        field,
        f"applies to {scheme}:// only; remove it",
        f"!has(self.{field}) || self.uri.startsWith('{scheme}://')",
        holds,
    )


def _addressed(scheme: str, message: str, cel: str, kind: Kind) -> Rule:
    """The rule that a `uri` of this scheme can name something."""
    return Rule(
        "uri",
        message,
        f"!self.uri.startsWith('{scheme}://') || {cel}",
        lambda document: not document.uri.startswith(f"{scheme}://") or proper(document.uri, kind),
        lambda document: advice(document.uri, kind),
    )


def _addresses(kind: Kind) -> tuple[Rule, ...]:
    """The rules of every `uri` that names a data set or a model."""
    return (
        _addressed(
            "hf",
            "must be hf://owner/name, with a revision in a field of its own",
            f"self.uri.matches('{HUB_ADDRESS}') && !self.uri.matches('{HUB_KINDS}')",
            kind,
        ),
        _addressed("file", "must be a path as the stages' system has it", f"!self.uri.matches('{SHELL_PATH}')", kind),
    )


Speakers = Annotated[list[Annotated[str, Field(max_length=256)]], Field(min_length=1, max_length=32)]


class DialogueMapping(Document):
    """How to read dialogues from any JSON or JSON Lines file. A path is dot-separated keys, for example `meta.turns`."""

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "supporter",
            "shares a value with seeker: each speaker value must mean only one of them",
            "!self.seeker.exists(value, value in self.supporter)",
            lambda mapping: not set(mapping.seeker) & set(mapping.supporter),
        ),
    )

    turns: Annotated[str, Field(min_length=1, max_length=256)]
    """Path from a record to its list of turns."""
    speaker: Annotated[str, Field(min_length=1, max_length=256)]
    """Path from a turn to its speaker."""
    text: Annotated[str, Field(min_length=1, max_length=256)]
    """Path from a turn to its text."""
    seeker: Speakers
    """Speaker values that mean the seeker (the one who is helped)."""
    supporter: Speakers
    """Speaker values that mean the supporter (the one who helps)."""
    strategy: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Path from a turn to its support strategy, where there is one."""
    records: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Path from the file's root to its list of records, where the root is not that list."""


def _ignores_no_other(source: Source) -> bool:
    mapping = source.mapping
    return not (source.ignore and mapping and set(source.ignore) & {*mapping.seeker, *mapping.supporter})


class Source(Document):
    """One data set."""

    rules: ClassVar[tuple[Rule, ...]] = (
        *_addresses("dataset"),
        _addressed("s3", "must name an object or a folder of a bucket", f"self.uri.matches('{S3_OBJECT}')", "dataset"),
        Rule(
            "mapping",
            "is needed with format: mapping, and only then; say where turns, speaker and text are, or remove it",
            "(self.format == 'mapping') == has(self.mapping)",
            lambda source: (source.format == "mapping") == (source.mapping is not None),
        ),
        Rule(
            "ignore",
            "shares a value with mapping.seeker or mapping.supporter: a speaker is either read or left out",
            "!has(self.ignore) || !has(self.mapping) || "
            "!self.ignore.exists(value, value in self.mapping.seeker || value in self.mapping.supporter)",
            _ignores_no_other,
        ),
        Rule(
            "ignore",
            "applies to dialogues only; remove it",
            "!has(self.ignore) || self.format != 'alpaca'",
            lambda source: source.ignore is None or source.format != "alpaca",
        ),
        only_with_scheme("config", "hf"),
        only_with_scheme("split", "hf"),
        only_with_scheme("revision", "hf"),
        Rule(
            "sha256",
            "applies to file:// and s3:// only; pin an hf:// data set by revision instead",
            "!has(self.sha256) || !self.uri.startsWith('hf://')",
            lambda source: source.sha256 is None or not source.uri.startswith("hf://"),
        ),
        only_with_scheme("endpoint", "s3"),
    )

    uri: Annotated[str, Field(min_length=1, max_length=2048, pattern=r"^(file|s3|hf)://.+")]
    """`file:///path`, `s3://bucket/key` or `hf://owner/dataset`. A relative `file://path` is relative to the run file. A directory, or `s3://bucket/folder/`, is read as its files in the order of their names."""
    format: Literal["esconv", "extes", "messages", "sharegpt", "alpaca", "mapping"]
    """Layout of the records. `messages` has `role` and `content`, `sharegpt` has `conversations` of `from` and `value`."""
    name: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=40)] | None = None
    """Name of the data set. Sources of `data.test` with one name are one test set, and each test set has figures of its own. A test set counts as never trained on if no source that is trained on has its `uri` or its `name`."""
    mapping: DialogueMapping | None = None
    """Where turns, speaker and text are: with `format: mapping`, and only then."""
    ignore: Speakers | None = None
    """Speakers that are left out, for example `[tool, observation]`; their turns are counted. `messages` and `sharegpt` leave out system turns without it."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Digest that the file must have (`file://` and `s3://`, not a folder)."""
    config: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Configuration (subset) of an `hf://` data set; needed if it has several and none is its default."""
    split: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """Split of an `hf://` data set; unset takes `train`."""
    revision: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Commit, tag or branch of an `hf://` data set; prepare pins it to a commit."""
    samples: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Records to take, drawn by seed; unset takes all."""
    endpoint: Annotated[str, Field(pattern=r"^https?://.+", max_length=2048)] | None = None
    """S3 endpoint of this source, where it differs from the storage's."""
    credentials_secret: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)] | None = None
    """Secret with this source's credentials (`AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`, or `HF_TOKEN`)."""


Quantization = Literal["nf4"]
"""How weights are quantised as they are loaded."""


class ModelSource(Document):
    """A model."""

    rules: ClassVar[tuple[Rule, ...]] = (*_addresses("model"), only_with_scheme("revision", "hf"))

    uri: Annotated[str, Field(min_length=1, max_length=2048, pattern=r"^(hf|s3|file|pvc|package)://.+")]
    """`hf://owner/model`, `s3://bucket/prefix`, `file:///directory`, `pvc://claim/path` or `package://python_package` (a model that an installed Python package ships)."""
    revision: Annotated[str, Field(min_length=1, max_length=128)] | None = None
    """Commit, tag or branch of an `hf://` model; prepare pins it to a commit."""


class BaseModelSource(ModelSource):
    """The model that the run starts from."""

    token_secret: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)] | None = None
    """Secret with `HF_TOKEN` for a gated model."""
    quantization: Quantization | None = None
    """`nf4`: every stage loads the weights in 4 bits (QLoRA, arXiv 2305.14314), which take a quarter of the memory and cost some quality. The checkpoint itself is not quantised."""


class RewardModelSource(ModelSource):
    """The model that scores answers: for sequence classification, with one label and a chat template. It is fetched with the base model's token."""


class SentenceModelSource(ModelSource):
    """A model that embeds sentences: an encoder for mean pooling, such as all-MiniLM-L6-v2. It is fetched with the base model's token."""


HOST_BELOW_A_SERVICE = (
    "^https?://[^./:@]+[.](s3[.-]|oss-|cos[.]|localhost|storage[.]googleapis[.]com|"
    "[^/:]+[.](r2[.]cloudflarestorage|digitaloceanspaces|linodeobjects)[.]com)"
)
"""URLs with one more label before the host of an S3 service: that label may be a bucket.

Only known services: `minio.minio` may be the host of a service, and `minio` a bucket in it.
"""


def contains_bucket(endpoint: str, bucket: str) -> bool:
    """Whether an endpoint ends with the bucket, or has it before the service's host."""
    last = re.match("^https?://[^/]*/*$", endpoint) is None and endpoint.endswith((f"/{bucket}", f"/{bucket}/"))
    first = f"://{bucket}." in endpoint and re.match(HOST_BELOW_A_SERVICE, endpoint) is not None
    return last or first


def _has_plain_endpoint(storage: Document) -> bool:
    values = storage.wire()
    return not contains_bucket(values.get("endpoint", ""), values["uri"].split("/")[2])


def _has_plain_uri(storage: Document) -> bool:
    uri = storage.wire()["uri"]
    return not uri.startswith("s3://") or re.match("^s3://[^/ ]+(/|/[^/].*)?$", uri) is not None


class Storage(Document):
    """Where artifacts go."""

    rules: ClassVar[tuple[Rule, ...]] = (
        only_with_scheme("endpoint", "s3"),
        only_with_scheme("region", "s3"),
        only_with_scheme("credentialsSecret", "s3"),
        only_with_scheme("encryption", "s3"),
        Rule(
            "uri",
            "must be s3://bucket or s3://bucket/prefix, without a blank in the bucket and without // after it",
            "!self.uri.startsWith('s3://') || self.uri.matches('^s3://[^/ ]+(/|/[^/].*)?$')",
            _has_plain_uri,
        ),
        Rule(
            "endpoint",
            "contains the bucket of uri: write only the address of the service, for example https://host:port",
            "!has(self.endpoint) || !("
            "(!self.endpoint.matches('^https?://[^/]*/*$') && (self.endpoint.endsWith('/' + self.uri.split('/')[2]) || "
            "self.endpoint.endsWith('/' + self.uri.split('/')[2] + '/'))) || "
            "(self.endpoint.contains('://' + self.uri.split('/')[2] + '.') && "
            f"self.endpoint.matches('{HOST_BELOW_A_SERVICE}')))",
            _has_plain_endpoint,
        ),
        Rule(
            "kmsKeyId",
            "applies to encryption: aws:kms and aws:kms:dsse only; remove it, or set one of these",
            "!has(self.kmsKeyId) || (has(self.encryption) && self.encryption.startsWith('aws:kms'))",
            lambda storage: storage.kms_key_id is None or (storage.encryption or "").startswith("aws:kms"),
        ),
    )

    uri: Annotated[str, Field(min_length=1, max_length=2048, pattern=r"^(file|s3)://.+")]
    """`s3://bucket/prefix` or `file:///directory`."""
    endpoint: Annotated[str, Field(pattern=r"^https?://[^\s?#]+$", max_length=2048)] | None = None
    """URL of the S3 service, without the bucket; unset is AWS."""
    region: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    """S3 region; if unset, the region of the credentials, else us-east-1."""
    credentials_secret: Annotated[str, Field(pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$", max_length=253)] | None = None
    """Secret with `AWS_ACCESS_KEY_ID` and `AWS_SECRET_ACCESS_KEY`; unset uses the Pod's own identity (IRSA, workload identity). Without a cluster the environment's credentials are used."""
    encryption: Literal["AES256", "aws:kms", "aws:kms:dsse"] | None = None
    """Encryption header (`x-amz-server-side-encryption`) of every write, for buckets whose policy demands it; unset leaves it to the bucket."""
    kms_key_id: Annotated[str, Field(min_length=1, max_length=2048)] | None = None
    """KMS key of `encryption: aws:kms` and `aws:kms:dsse`: id or ARN; unset is the bucket's default key."""
