"""What the hub's refusals mean: each cause has its own words, and none shows a token."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from evolution_jobs.contract.errors import StageError, TransientError
from evolution_jobs.models.hub import explained, pin

TOKEN = "hf_canaryTokenThatNobodyMaySee"


def told(error: Exception) -> StageError:
    with pytest.raises(StageError) as caught, explained("data.seed[0].uri: hf://owner/name"):
        raise error
    return caught.value


def http_error(status: int, headers: dict[str, str] | None = None) -> Exception:
    """The error that huggingface_hub raises for such an answer."""
    from huggingface_hub.errors import HfHubHTTPError, HTTPError

    httpx = __import__(HTTPError.__module__.partition(".")[0])
    request = httpx.Request("GET", f"https://hub.example/api/datasets/owner/name?token={TOKEN}")
    return HfHubHTTPError(
        f"the library's words {TOKEN}", response=httpx.Response(status, headers=headers, request=request)
    )


PAGE = {"content-type": "text/html", "x-squid-error": "ERR_ACCESS_DENIED 0"}


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    # The library has read the variable when it was imported.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)


@pytest.mark.parametrize(
    ("error", "reason", "words"),
    [
        (lambda: http_error(401), "HubDenied", "does not accept the token"),
        (lambda: http_error(403), "HubDenied", "may not read it"),
        (lambda: http_error(403, PAGE), "ProxyDenied", "proxy"),
        (lambda: http_error(407), "ProxyDenied", "user and a password"),
        (lambda: http_error(404), "HubMissing", "no such file"),
        (lambda: http_error(404, {"content-type": "text/html"}), "HubInvalid", "HF_ENDPOINT"),
        (lambda: http_error(400), "HubInvalid", "refuses the request"),
        (lambda: http_error(416), "HubUnreachable", "changed"),
        (lambda: http_error(429), "HubUnreachable", "number of requests"),
        (lambda: http_error(503), "HubUnreachable", "fault of its own"),
        (lambda: http_error(503, PAGE), "HubUnreachable", "503"),
        (lambda: OSError(f"Illegal header value b'Bearer {TOKEN}\\n'"), "CredentialsInvalid", "HF_TOKEN"),
        (lambda: OSError("CERTIFICATE_VERIFY_FAILED: unable to get local issuer"), "HubUntrusted", "SSL_CERT_FILE"),
        (lambda: OSError("CERTIFICATE_VERIFY_FAILED: certificate has expired"), "HubUntrusted", "has expired"),
        (lambda: OSError("[Errno -2] Name or service not known"), "HubUnreachable", "no host has this name"),
        (lambda: OSError("WRONG_VERSION_NUMBER"), "HubInvalid", "without TLS"),
    ],
)
def test_each_cause_has_its_own_words(error: Callable[[], Exception], reason: str, words: str) -> None:
    found = told(error())
    assert (found.reason, isinstance(found, TransientError)) == (reason, reason == "HubUnreachable")
    assert words in str(found)
    assert "hf://owner/name" in str(found)
    for hidden in (TOKEN, "library's words"):
        assert hidden not in str(found)


def test_a_token_with_a_line_feed_is_not_shown_by_any_library(moto: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", moto)
    with pytest.raises(StageError) as caught:
        pin("hf://owner/name", None, "dataset", f"{TOKEN}\n", "data.seed[0]")
    assert caught.value.reason == "CredentialsInvalid"
    assert TOKEN not in str(caught.value)
    monkeypatch.setenv("HF_TOKEN", f"{TOKEN}\nmore")
    with pytest.raises(StageError, match="HF_TOKEN") as caught:
        pin("hf://owner/name", None, "dataset", None, "data.seed[0]")
    assert caught.value.reason == "CredentialsInvalid"
    assert TOKEN not in str(caught.value)
