"""Signs statements as DSSE envelopes, and checks them. The cryptography is that of securesystemslib.

Protocol: https://github.com/secure-systems-lab/dsse/blob/master/protocol.md
"""

from __future__ import annotations

import importlib.util
import json
import os
from base64 import b64decode
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.keys import MANIFEST
from evolution_jobs.libraries import install
from evolution_jobs.store.base import disk_error

if TYPE_CHECKING:
    from securesystemslib.dsse import Envelope
    from securesystemslib.signer import CryptoSigner, SSlibKey

PAYLOAD_TYPE = "application/vnd.in-toto+json"
PASSPHRASE = "EVOLUTION_KEY_PASSPHRASE"  # noqa: S105 -- the variable's name
"""Environment variable with the passphrase of an encrypted private key."""
KEY_LIMIT = 1 << 16
"""Largest key file in bytes."""
MALFORMED = (KeyError, TypeError, ValueError, AttributeError, RecursionError)
"""What reading a document raises that somebody else has written."""


def private_key(path: Path) -> CryptoSigner:
    """The private key in a PEM file: Ed25519, ECDSA (P-256, P-384) or RSA.

    Raises PermanentError `KeyInvalid`, which names the file, and `DependencyMissing`; StageError if it cannot be read.
    """
    _require_library()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from securesystemslib.signer import CryptoSigner

    passphrase = os.environ.get(PASSPHRASE)
    try:
        return CryptoSigner(load_pem_private_key(_read(path), passphrase.encode() if passphrase else None))
    except TypeError as error:
        words = "is not encrypted: unset" if passphrase else "is encrypted: put its passphrase into"
        raise PermanentError("KeyInvalid", f"{path} {words} {PASSPHRASE}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        words = "or has another passphrase" if passphrase else "as PEM"
        raise PermanentError("KeyInvalid", f"{path} is no private key (Ed25519, ECDSA or RSA), {words}") from error


def public_key(path: Path) -> SSlibKey:
    """The public key in a PEM file. Raises as `private_key`."""
    _require_library()
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_public_key
    from securesystemslib.signer import SSlibKey

    try:
        return SSlibKey.from_crypto(load_pem_public_key(_read(path)))
    except (ValueError, UnsupportedAlgorithm) as error:
        advice = "openssl pkey -in KEY -pubout makes it from the private one"
        raise PermanentError(
            "KeyInvalid", f"{path} is no public key (Ed25519, ECDSA or RSA) as PEM; {advice}"
        ) from error


def sign(statement: bytes, signer: CryptoSigner, earlier: bytes | None = None) -> bytes:
    """A DSSE envelope with the statement, as JSON. Signatures that an earlier envelope has of the same statement stay."""
    from securesystemslib.dsse import Envelope

    envelope = Envelope(statement, PAYLOAD_TYPE, {})
    if earlier is not None:
        try:
            before = _envelope(earlier)
        except MALFORMED:
            before = envelope
        if (before.payload, before.payload_type) == (envelope.payload, envelope.payload_type):
            envelope = before
    envelope.sign(signer)
    return json.dumps(envelope.to_dict(), indent=1).encode() + b"\n"


OTHER_KEY = "has no valid signature by this key"
"""A fault of the signer, not of what was signed."""


def signature_fault(envelope: bytes | None, manifest_digest: str, key: SSlibKey | None) -> str | None:
    """What is wrong with the signed provenance of a manifest with this digest, or None.

    Without a key, only what the statement says is compared, and no envelope is no fault.
    """
    if envelope is None:
        return "is missing: the manifest is not signed" if key is not None else None
    try:
        document = json.loads(envelope)
        subjects = json.loads(b64decode(document["payload"], validate=True))["subject"]
        digests = [subject["digest"]["sha256"] for subject in subjects if subject["name"] == MANIFEST]
        signed = key is None or _is_signed(_envelope(envelope), key)
    except MALFORMED:
        return "is no signed in-toto statement"
    if not signed:
        return OTHER_KEY
    return None if digests == [manifest_digest] else "is of another manifest than the one that is there"


def _is_signed(envelope: Envelope, key: SSlibKey) -> bool:
    from securesystemslib.exceptions import UnverifiedSignatureError
    from securesystemslib.signer import Signature

    if envelope.payload_type != PAYLOAD_TYPE:
        return False
    # A key id is only a hint, and other tools write other ids.
    for signature in envelope.signatures.values():
        try:
            key.verify_signature(Signature(key.keyid, signature.signature), envelope.pae())
        except UnverifiedSignatureError:
            continue
        return True
    return False


def _envelope(data: bytes) -> Envelope:
    """Raises one of `MALFORMED`."""
    from securesystemslib.dsse import Envelope

    document: dict[str, Any] = json.loads(data)
    for number, signature in enumerate(document["signatures"]):
        signature.setdefault("keyid", f"unnamed-{number}")
    return Envelope.from_dict(document)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(KEY_LIMIT)
    except FileNotFoundError as error:
        raise PermanentError("KeyInvalid", f"{path} does not exist") from error
    except OSError as error:
        raise disk_error(error, path) from error


def _require_library() -> None:
    for package in ("securesystemslib", "cryptography"):
        if importlib.util.find_spec(package) is None:
            raise PermanentError("DependencyMissing", f"signatures need {package}: {install('sign')}")
