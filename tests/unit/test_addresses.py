"""Addresses of other tools: each is refused offline, with what to write instead."""

import re
from typing import Any

import pytest
from evolution_jobs.contract.addresses import HUB_ADDRESS, HUB_KINDS, S3_OBJECT, SHELL_PATH, advice, proper
from evolution_jobs.contract.locations import BaseModelSource, Source
from evolution_operator.api.validation import faults
from hypothesis import given
from hypothesis import strategies as st

from tests.support.run_document import minimal_spec, run_document

DATA = {
    "hf://datasets/owner/talks/data/train.parquet": "write hf://owner/talks, without a file; choose rows by config:",
    "hf://datasets/owner/talks@refs/convert/parquet": "write hf://owner/talks and revision: refs/convert/parquet",
    "hf://datasets/owner/talks@~parquet/en/x.parquet": "revision: refs/convert/parquet, without a file",
    "hf://owner/talks@v2": "write hf://owner/talks and revision: v2",
    "hf://owner/talks/train.jsonl": "write hf://owner/talks, without a file",
    "hf://talks": "write hf://owner/name",
    "hf://models/owner/m": "names no data set",
    "https://huggingface.co/datasets/owner/talks": "write hf://owner/talks",
    "https://hf.co/datasets/owner/talks/blob/main/x.json": "write hf://owner/talks, without a file",
    "https://huggingface.co/datasets/owner/talks/tree/v2": "and revision: v2",
    "https://huggingface.co/datasets/owner/talks/viewer/en/test": "write hf://owner/talks, config: en and split: test",
    "https://huggingface.co/datasets/talks": "write hf://owner/name",
    "https://huggingface.co/owner/m": "not the page of a data set",
    "https://bucket.s3.eu-west-1.amazonaws.com/a/x.jsonl": "write s3://bucket/a/x.jsonl",
    "https://s3.amazonaws.com/bucket/a/x.jsonl": "write s3://bucket/a/x.jsonl",
    "https://storage.googleapis.com/bucket/x.jsonl": "write s3://bucket/x.jsonl with endpoint:",
    "https://github.com/o/r/blob/main/Talks.json": "download it, then write file:///path/Talks.json",
    "gs://bucket/x.jsonl": "write s3://bucket/x.jsonl with endpoint: https://storage.googleapis.com",
    "s3a://bucket/x.jsonl": "write s3://bucket/x.jsonl",
    "S3://bucket/x.jsonl": "write s3:// in small letters",
    "s3://bucket": "s3://bucket/key",
    "abfss://c@account.dfs.core.windows.net/x": "no S3 interface",
    "hdfs://node/x": "copy it",
    "pvc://claim/x.jsonl": "prepare.pod.volumes",
    r"C:\talks\x.jsonl": "file:///mnt/c/talks/x.jsonl",
    "file:///D:/talks/x.jsonl": "file:///mnt/d/talks/x.jsonl",
    r"\\server\share\x.jsonl": "path of Windows",
    "~/x.jsonl": "the whole path",
    "file://~/x.jsonl": "the whole path",
    "file:///$HOME/x.jsonl": "the whole path",
    "/talks/x.jsonl": "write file:///talks/x.jsonl",
    "file:/talks/x.jsonl": "write file:///talks/x.jsonl",
    "talks/x.jsonl": "write file://talks/x.jsonl for a path relative to the run file",
    "owner/talks": "write hf://owner/talks for the hub",
    " hf://owner/talks": "remove the blanks",
}
MODELS = {
    "hf://models/owner/m": "write hf://owner/m",
    "hf://owner/m@v1": "write hf://owner/m and revision: v1",
    "hf://owner/m/model.safetensors": "a model is its whole repository",
    "hf://m": "write hf://owner/name: the model's page",
    "https://huggingface.co/owner/m": "write hf://owner/m",
    "https://huggingface.co/owner/m/tree/v1": "and revision: v1",
    "owner/m": "write hf://owner/m for the hub",
    "~/models/m": "the whole path",
    "hf://datasets/owner/talks": "names no model",
}
PROPER = [
    "hf://owner/talks",
    "hf://Own-er.1/talks_2.x",
    "s3://bucket/a b/x.jsonl",
    "s3://bucket/folder/",
    "file:///data/x.jsonl",
    "file://x.jsonl",
    "file:///%EF%BC%9Ax.jsonl",
    "file:///a/$b/~c",
    "file://~draft.jsonl",
]


def source_faults(uri: str, **spec: Any) -> list[str]:
    return [
        str(fault)
        for fault in faults(run_document(minimal_spec(data={"seed": [{"uri": uri, "format": "esconv"}]}, **spec)))
    ]


@pytest.mark.parametrize("uri", DATA)
def test_an_address_of_a_data_set_is_refused_with_what_to_write(uri: str) -> None:
    (fault,) = source_faults(uri)
    assert fault.startswith("spec.data.seed[0].uri: ")
    assert DATA[uri] in fault


@pytest.mark.parametrize("uri", MODELS)
def test_an_address_of_a_model_is_refused_with_what_to_write(uri: str) -> None:
    (fault,) = (str(each) for each in faults(run_document(minimal_spec(baseModel={"uri": uri}))))
    assert fault.startswith("spec.baseModel.uri: ")
    assert MODELS[uri] in fault


@pytest.mark.parametrize("uri", PROPER)
def test_an_address_that_can_be_used_is_taken(uri: str) -> None:
    assert source_faults(uri) == []
    assert advice(uri, "dataset") is None
    assert Source.model_validate({"uri": uri, "format": "esconv"}).uri == uri
    for model in ("pvc://claim/m", "package://m", "s3://bucket", "file:///m"):
        assert BaseModelSource(uri=model).uri == model


@pytest.mark.parametrize(
    "uri", ["https://me:hf_token@huggingface.co/datasets/o/t", "https://b.s3.amazonaws.com/x?X-Amz-Signature=canary"]
)
def test_what_an_address_may_hold_of_a_credential_is_not_repeated(uri: str) -> None:
    (fault,) = source_faults(uri)
    assert "hf_token" not in fault
    assert "canary" not in fault


@given(st.sampled_from(["hf://", "s3://", "file://", ""]), st.text("aZ0/.@~$%:_- \\?#[]\u00e9", max_size=12))
def test_advice_never_fails_and_is_given_for_what_is_refused(scheme: str, rest: str) -> None:
    uri = scheme + rest
    for pattern in (HUB_ADDRESS, HUB_KINDS, S3_OBJECT, SHELL_PATH):
        re.search(pattern, uri)
    if scheme and not proper(uri, "dataset"):
        assert advice(uri, "dataset")
    advice(uri, "model")
