"""What connections of S3 and of the hub have in common: proxies that answer in place of the service, TLS, name resolution."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit
from urllib.request import getproxies_environment, proxy_bypass


def proxy_of(url: str) -> str | None:
    """The proxy that the environment sets for a URL, without user and password; None if there is none."""
    parts = urlsplit(url)
    proxies = getproxies_environment()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    # Its name is misleading: true if NO_PROXY lists the host.
    if not proxy or proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    scheme, _, host = proxy.rpartition("://")
    return f"{scheme or 'http'}://{host.rpartition('@')[2].rstrip('/')}"


def is_page(headers: Mapping[str, str]) -> bool:
    """Whether an answer is a web page or a proxy's own error. Neither S3 nor the hub's API answers with one."""
    found = {name.lower(): value.lower() for name, value in headers.items()}
    return "text/html" in found.get("content-type", "") or "x-squid-error" in found


def page_words(url: str, status: int | None, service: str) -> str:
    """Who has refused a request for `service` with a page, and what to do."""
    proxy = proxy_of(url)
    code = f" (HTTP {status})" if status else ""
    if status == 407:
        return f"the proxy {proxy or 'in between'} asks for a user and a password: write them into HTTPS_PROXY or HTTP_PROXY"
    if proxy is not None:
        return (
            f"the proxy {proxy} refuses the request{code} with a page of its own, so {service} has not seen it: let the "
            "proxy pass this address, or add its host to NO_PROXY"
        )
    return (
        f"the answer{code} is a web page and does not come from {service}: a proxy or firewall in between refuses the "
        "request, or another service answers at this address"
    )


NO_NAME = ("NameResolutionError", "Failed to resolve", "Name or service not known", "getaddrinfo", "name resolution")
CERTIFICATES = {
    "certificate has expired": "its certificate has expired: renew it, or correct this node's clock",
    "Hostname mismatch": "its certificate is for another host: use the host that the certificate names",
    "IP address mismatch": "its certificate is for another host: use the host that the certificate names",
    "": "its certificate is not trusted: set {variable} to a file with its CA certificate",
}
"""What OpenSSL says about a certificate, and the remedy."""
NO_TLS = ("WRONG_VERSION_NUMBER", "wrong version number", "record layer failure", "RECORD_LAYER_FAILURE")


def certificate_fault(text: str, variable: str) -> str | None:
    """What is wrong with a certificate and what to do, if `text` of an error says so. `variable` names the CA's file."""
    if "CERTIFICATE_VERIFY_FAILED" not in text and "certificate verify failed" not in text:
        return None
    return next(remedy for words, remedy in CERTIFICATES.items() if words in text).format(variable=variable)


def answers_without_tls(text: str) -> bool:
    """Whether the text of an error says that https:// was asked of a port that does not speak TLS."""
    return any(words in text for words in NO_TLS)


def how_it_failed(text: str) -> str | None:
    """How a connection failed, if `text` of an error says so. The text itself may contain a password in a URL."""
    if any(words in text for words in NO_NAME):
        return "no host has this name"
    return "connection refused" if "Connection refused" in text else None
