"""Credentials work with white space around them, and appear nowhere: canaries are planted and looked for."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import pytest
from evolution_jobs.attempt.failures import failure_report
from evolution_jobs.attempt.report import write_report
from evolution_jobs.contract.credentials import credential, tidy_environment
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.locations import Storage
from evolution_jobs.contract.manifest import Report
from evolution_jobs.redaction import redact_output, redacted, words_of
from evolution_jobs.store.open import open_store

from tests.support.storage.servers import ACCESS_KEY, SECRET_KEY, s3_storage

CANARY = "Canary/1+secret=="
TOKEN = "hf_canaryTokenThatNobodyMaySee"


@pytest.mark.parametrize("around", ["{}\n", "{}\r\n", " {}", "\t{} \n", "\ufeff{}"])
def test_white_space_around_a_credential_is_removed(around: str) -> None:
    written = around.format(CANARY)
    assert credential("KEY", {"KEY": written}) == CANARY
    environment = {"AWS_ACCESS_KEY_ID": written, "CREDENTIALS_HUB_HF_TOKEN": written, "HOME": " x "}
    tidy_environment(environment)
    assert environment == {"AWS_ACCESS_KEY_ID": CANARY, "CREDENTIALS_HUB_HF_TOKEN": CANARY, "HOME": " x "}


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        ("canary\none", "line break"),
        ("canary\x07one", "control character"),
        ("c\xe4nary-one", "not ASCII"),
        ('"canary-one"', "quotation marks"),
        (" \n", "only blanks"),
    ],
)
def test_what_no_request_can_carry_is_refused_by_the_name_of_its_variable(value: str, fault: str) -> None:
    with pytest.raises(PermanentError, match=f"HF_TOKEN .*{fault}") as caught:
        credential("HF_TOKEN", {"HF_TOKEN": value})
    assert caught.value.reason == "CredentialsInvalid"
    assert "nary" not in str(caught.value)
    assert credential("HF_TOKEN", {}) is None


@pytest.mark.parametrize("variable", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
@pytest.mark.parametrize("server", ["moto", pytest.param("minio", marks=pytest.mark.minio)])
@pytest.mark.usefixtures("s3_environment")
def test_a_store_works_with_a_key_that_ends_with_a_line_feed(
    server: str, variable: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = s3_storage(request.getfixturevalue(server))
    monkeypatch.setenv(variable, f"{ {'AWS_ACCESS_KEY_ID': ACCESS_KEY}.get(variable, SECRET_KEY) }\r\n")
    store = open_store(storage)
    store.put_bytes(b"x", "a")
    assert store.read("a") == b"x"


LEAKS = [
    "Illegal header value b'Bearer {token}\\n'",
    "Invalid header value b'AWS4-HMAC-SHA256 Credential=AKIACANARYCANARY1234/2026/us-east-1/s3, Signature=0123abcdef'",
    "GET https://host/x?X-Amz-Credential=AKIACANARYCANARY1234%2F2026&X-Amz-Signature=0123abcdef&a=1 failed",
    "cannot connect to http://user:canary@word@proxy.example:3128/",
    "{secret} and {quoted}",
    "Authorization: Basic Y2FuYXJ5OmNhbmFyeQ==",
]


@pytest.mark.parametrize("text", LEAKS)
def test_no_credential_is_left_in_a_text(text: str) -> None:
    environment = {"CREDENTIALS_X_AWS_SECRET_ACCESS_KEY": f"{CANARY}\n", "EVOLUTION_STORAGE_PATIENCE": "300300300"}
    written = text.format(token=TOKEN, secret=CANARY, quoted="Canary%2F1%2Bsecret%3D%3D")
    found = redacted(written, environment)
    for leak in (TOKEN, "AKIACANARY", "0123abcdef", "canary", "Canary", "Y2Fu"):
        assert leak not in found.replace("CANARY", "")
    assert redacted("the token (HF_TOKEN) of hf://owner/name@main at http://host:1/a", environment) == (
        "the token (HF_TOKEN) of hf://owner/name@main at http://host:1/a"
    )


def test_a_user_name_that_is_a_word_stays_readable() -> None:
    assert redacted("s3://evolution/runs", {"AWS_ACCESS_KEY_ID": "evolution"}) == "s3://evolution/runs"


@pytest.fixture
def planted(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("CREDENTIALS_HUB_HF_TOKEN", f"{TOKEN}\n")
    return f"Illegal header value b'Bearer {TOKEN}\\n'"


def test_reports_logs_and_tracebacks_are_free_of_it(
    planted: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("EVOLUTION_TERMINATION_LOG", str(tmp_path / "termination"))
    with caplog.at_level(logging.INFO):
        try:
            try:
                raise ValueError(planted)
            except ValueError as error:
                raise RuntimeError("wrapped") from error
        except RuntimeError as error:
            report, _ = failure_report(None, error)
    write_report(report)
    write_report(Report(reason="HubDenied", message=planted))
    printed = capsys.readouterr()
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    assert "Traceback" in caplog.text
    assert "Illegal header value" in caplog.text + printed.out
    for text in (printed.out, printed.err, caplog.text, written, words_of(ValueError(planted))):
        assert TOKEN not in text


def test_what_a_library_prints_is_free_of_it(
    planted: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.setattr(sys, "stderr", sys.stderr)
    redact_output()
    redact_output()
    print(planted)
    sys.stderr.writelines([planted, "\n"])
    logging.StreamHandler().emit(logging.makeLogRecord({"msg": planted}))
    printed = capsys.readouterr()
    assert printed.out.count("<") == 1
    assert printed.err.count("Illegal header value") == 2
    assert TOKEN not in printed.out + printed.err


@pytest.mark.usefixtures("s3_environment")
def test_a_refused_key_of_the_store_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "canary\nsession")
    with pytest.raises(PermanentError, match="AWS_SESSION_TOKEN") as caught:
        open_store(Storage(uri="s3://some-bucket"))
    assert caught.value.reason == "CredentialsInvalid"
    assert "canary" not in str(caught.value)
