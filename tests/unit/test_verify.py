"""`evolution verify` and `evolution sign`: every change to what a run has left is found, and only the signer's manifests pass."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.keys import manifest_path, stage_prefix
from evolution_jobs.contract.locations import Storage
from evolution_jobs.contract.manifest import canonical_digest
from evolution_jobs.store.base import Store
from evolution_jobs.store.manifests import CorruptManifestError, read_manifest, retract
from evolution_jobs.store.open import open_store
from evolution_operator.cli.main import app
from evolution_operator.results.find import results_of_pointers
from evolution_operator.results.results import Results
from evolution_operator.verify.findings import Kind, Verification
from evolution_operator.verify.provenance import statement
from evolution_operator.verify.signing import PASSPHRASE, private_key, public_key, sign, signature_fault
from evolution_operator.verify.walk import bytes_to_read, manifest_digest, provenance_path, verify
from typer.testing import CliRunner

from tests.support.stages import fake_stages
from tests.support.stages.finished import finished_run, results_in
from tests.support.stages.published import publish
from tests.support.stages.runner import Runner
from tests.unit.test_load import manifest
from tests.unit.test_runner import copies_model


def said(verification: Verification) -> list[tuple[str, str, str]]:
    return [(finding.kind.value, finding.stage, finding.message) for finding in verification.findings]


def place_of(results: Results, name: str) -> str:
    """Location of an artifact's first file."""
    return results.artifact(name).output.files[0].location


def edit(store: Store, location: str, change: Callable[[dict[str, Any]], object]) -> None:
    document = json.loads(store.read(location) or b"")
    change(document)
    store.put_bytes(json.dumps(document).encode(), location)


# Digests, keys and pointers.


def test_a_run_that_nobody_has_touched_is_intact(directory: Storage) -> None:
    results = finished_run(directory)
    read: list[int] = []
    verification = verify(results, watch=read.append)
    assert (verification.intact, said(verification)) == (True, [])
    assert [stage.stage for stage in verification.stages] == ["prepare", "sft", "generate-1", "evaluate-0"]
    assert sum(read) == bytes_to_read(results) == sum(stage.size for stage in verification.stages) > 7000


def test_a_flipped_byte_a_lost_file_and_a_shorter_one_are_found(storage: Storage) -> None:
    results = finished_run(storage)
    model, answers, train = (place_of(results, name) for name in ("M0", "responses-1", "train"))
    results.store.put_bytes(b"Weights" + b"weights" * 999, model)
    results.store.delete(answers)
    results.store.put_bytes(b"", train)
    verification = verify(results_in(storage))
    assert not verification.intact
    sizes = {file.location: file.size for file in results.artifact("train").output.files}
    told = said(verification)
    assert ("missing", "generate-1", f"{answers} is missing") in told
    assert ("changed", "prepare", f"{train} has 0 bytes instead of {sizes[train]}") in told
    (changed,) = [message for kind, stage, message in told if (kind, stage) == ("changed", "sft")]
    assert changed.startswith(f"{model}: expected sha256 ")
    assert len(told) == 3


def test_what_no_manifest_names_is_foreign_or_left_over(directory: Storage) -> None:
    results = finished_run(directory)
    key = results.manifests["sft"].key
    own = place_of(results, "M0").rpartition("/")[0]
    for location in (f"{own}/pickle.bin", f"{stage_prefix(key)}notes.txt"):
        results.store.put_bytes(b"x", location)
    for folder in ("attempts/killed/adapter", "checkpoints/7-a", "rows", "claims"):
        results.store.put_bytes(b"x", f"{stage_prefix(key)}{folder}/1")
    results.store.put_bytes(b"x", "runs/tests/run/notes.txt")
    verification = verify(results)
    assert verification.intact
    assert sorted(said(verification)) == sorted(
        [
            ("foreign", "sft", f"{own}/pickle.bin is in no manifest"),
            ("foreign", "sft", f"{stage_prefix(key)}notes.txt is in no manifest"),
            ("foreign", "", "runs/tests/run/notes.txt is neither a record nor a pointer"),
            ("left over", "sft", f"1 objects below {stage_prefix(key)}attempts/: files of another attempt"),
            ("left over", "sft", f"1 objects below {stage_prefix(key)}checkpoints/: checkpoints of a finished stage"),
            ("left over", "sft", f"1 objects below {stage_prefix(key)}rows/: rows of a finished stage"),
            ("left over", "sft", f"1 objects below {stage_prefix(key)}claims/: claims of a finished stage"),
        ]
    )


def test_a_copied_model_is_verified_too(directory: Storage, run: Runner) -> None:
    assert run(fake_stages.spec(directory, "prepare"), prepare=copies_model)[0] == 0
    assert verify(results_in(directory)).intact
    store = open_store(directory)
    (weights,) = [location for location, _ in store.list("models/") if location.endswith(".safetensors")]
    store.put_bytes(b"Weights" * 1000, weights)
    ((kind, stage, message),) = said(verify(results_in(directory)))
    assert (kind, stage) == ("changed", "prepare")
    assert message.startswith(f"{weights}: expected sha256")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda document: document["settings"].update(epochs=9), "its key does not follow"),
        (lambda document: document.update(seed=1), "its key does not follow"),
        (lambda document: document["inputs"].update(train="0" * 64), "input train: its content is not that of any"),
        (lambda document: document["code"].update(stage="0"), "its key is not recomputed: another version of the"),
        (lambda document: document["settings"].update(newer=1), "its key is not recomputed: another version wrote"),
    ],
)
def test_a_manifest_that_does_not_fit_its_key_is_found(
    directory: Storage, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    results = finished_run(directory)
    edit(results.store, manifest_path(results.manifests["sft"].key), change)
    verification = verify(results_in(directory))
    assert any(stage == "sft" and words in message for _, stage, message in said(verification)), said(verification)
    assert verification.intact == ("key does not follow" not in words)


def test_a_model_that_is_swapped_in_its_manifest_is_found(directory: Storage) -> None:
    """The output's digest is what later stages have read, so a file's cannot change alone."""
    results = finished_run(directory)
    place, sft = place_of(results, "M0"), results.manifests["sft"]
    results.store.put_bytes(b"another", place)

    def swap(document: dict[str, Any]) -> None:
        (file,) = [each for each in document["outputs"]["adapter"]["files"] if each["location"] == place]
        file |= {"sha256": hashlib.sha256(b"another").hexdigest(), "size": len(b"another")}

    edit(results.store, manifest_path(sft.key), swap)
    with pytest.raises(CorruptManifestError, match=r"outputs\.adapter: its digest is not that of its files"):
        read_manifest(results.store, sft.key)
    verification = verify(results_in(directory))
    assert not verification.intact
    assert any((kind, stage) == ("changed", "sft") for kind, stage, _ in said(verification))


def test_an_input_that_is_no_longer_what_was_read_is_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The spec says where inputs come from, so this is no mixture of two runs of one name."""
    from evolution_operator.cli.named import open_results

    file = manifest(tmp_path, iterations=1)
    run, keys = publish(file, capsys)
    assert verify(open_results(str(file))).intact
    store = open_store(run.spec.storage)
    edit(store, manifest_path(keys["evaluate-0"]), lambda document: document["inputs"].update(adapter="0" * 64))
    verification = verify(open_results(str(file)))
    words = f"input adapter: its content is not that of sft/adapter: sha256 {'0' * 64} was read"
    assert ("changed", "evaluate-0", words) in said(verification)


def test_a_manifest_that_is_gone_or_unreadable_is_found(directory: Storage) -> None:
    results = finished_run(directory)
    keys = {stage: manifest.key for stage, manifest in results.manifests.items()}
    results.store.delete(manifest_path(keys["prepare"]))
    results.store.put_bytes(b"{", manifest_path(keys["sft"]))
    told = said(verify(results_in(directory)))
    missing = [message for kind, stage, message in told if (kind, stage) == ("missing", "prepare")]
    assert missing == [f"{manifest_path(keys['prepare'])} is missing; runs/tests/run/contexts names it"]
    (unreadable,) = [message for kind, stage, message in told if (kind, stage) == ("changed", "sft")]
    assert "ManifestCorrupt" in unreadable


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda document: document.update(artifact="M1"), "runs/tests/run/M0 names adapter of sft"),
        (lambda document: document.update(stage="dpo-1"), "runs/tests/run/M0 names adapter of dpo-1"),
        (lambda document: document.update(digest="0" * 64), "runs/tests/run/M0 names other files than the manifest"),
        (lambda document: document["files"].pop(), "runs/tests/run/M0 names other files than the manifest"),
    ],
)
def test_a_pointer_that_names_something_else_is_found(
    directory: Storage, change: Callable[[dict[str, Any]], object], words: str
) -> None:
    results = finished_run(directory)
    edit(results.store, "runs/tests/run/M0", change)
    verification = verify(results_in(directory))
    assert ("changed", "sft", words) in said(verification)
    assert not verification.intact


def test_a_result_of_another_run_is_fine_and_a_withdrawn_one_is_said(directory: Storage, run: Runner) -> None:
    results = finished_run(directory)
    nodes = fake_stages.graph(pins={"uid": "other"})
    assert run(fake_stages.spec(directory, "prepare", nodes=nodes, name="other"))[0] == 0
    other = results_of_pointers(open_store(directory), "tests", "other")
    verification = verify(other)
    assert verification.intact
    assert {stage.stage: stage.computed_by for stage in verification.stages} == {
        "prepare": "tests/other",
        **dict.fromkeys(("sft", "generate-1", "evaluate-0"), "tests/run"),
    }
    spec = fake_stages.spec(directory, "sft", run.prepared(directory))
    retract(results.store, spec.key, "a test")
    assert run(spec)[0] == 0
    told = said(verify(results_in(directory)))
    assert told == [("left over", "sft", f"1 objects below {stage_prefix(spec.key)}retracted/: a withdrawn result")]


# Provenance and signatures.


def write_keys(directory: Path, key: Any = None, name: str = "key", passphrase: bytes | None = None) -> Path:
    """A private key as PEM, and its public one beside it (`.pub`)."""
    key = key or ed25519.Ed25519PrivateKey.generate()
    encryption = BestAvailableEncryption(passphrase) if passphrase else NoEncryption()
    path = directory / f"{name}.pem"
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption))
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    path.with_suffix(".pub").write_bytes(public)
    return path


def signed(results: Results, path: Path) -> None:
    for each in results.manifests.values():
        text = statement(each, manifest_digest(results.store, each.key), results.manifests)
        place = provenance_path(each.key)
        results.store.put_bytes(sign(text, private_key(path), results.store.read(place)), place)


def test_provenance_says_what_a_model_was_made_from(directory: Storage) -> None:
    results = finished_run(directory)
    sft, evaluation = results.manifests["sft"], results.manifests["evaluate-0"]
    digest = manifest_digest(results.store, sft.key)
    text = statement(sft, digest, results.manifests)
    assert text == statement(sft, digest, results_in(directory).manifests), "the same manifests make the same bytes"
    document = json.loads(text)
    assert document["_type"] == "https://in-toto.io/Statement/v1"
    assert document["predicateType"] == "https://slsa.dev/provenance/v1"
    files = {f"adapter/{file.path}": file.sha256 for file in sft.outputs["adapter"].files}
    assert {each["name"]: each["digest"]["sha256"] for each in document["subject"]} == {
        "manifest.json": digest,
        **files,
    }
    definition = document["predicate"]["buildDefinition"]
    assert definition["externalParameters"] == {"stage": "sft", "settings": sft.settings, "seed": sft.seed}
    inputs = {each["name"]: each for each in definition["resolvedDependencies"]}
    assert inputs.keys() == {"model", "train", "train/train.jsonl"}
    assert inputs["model"]["uri"] == "hf://owner/model@0123456789"
    (train,) = results.artifact("train").output.files
    assert inputs["train/train.jsonl"] == {
        "name": "train/train.jsonl",
        "uri": train.location,
        "digest": {"sha256": train.sha256},
    }
    assert document["predicate"]["runDetails"]["metadata"]["invocationId"] == f"tests/run/{sft.attempt}"
    lone = json.loads(statement(evaluation, digest, {}))["predicate"]["buildDefinition"]["resolvedDependencies"]
    assert [each["name"] for each in lone] == ["adapter", "contexts"]
    assert all("uri" not in each for each in lone)


@pytest.mark.parametrize(
    "key",
    [
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP256R1()),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["ed25519", "ecdsa", "rsa"],
)
def test_a_signed_run_passes_with_the_signer_s_key_alone(directory: Storage, tmp_path: Path, key: Any) -> None:
    results = finished_run(directory)
    path = write_keys(tmp_path, key)
    unsigned = verify(results, public_key(path.with_suffix(".pub")))
    assert {finding.kind for finding in unsigned.findings} == {Kind.unsigned}
    assert not unsigned.intact
    assert len(unsigned.findings) == len(results.manifests)
    signed(results, path)
    passed = verify(results, public_key(path.with_suffix(".pub")))
    assert (passed.intact, passed.findings, len(passed.signed)) == (True, [], 4)
    stranger = write_keys(tmp_path, name="stranger").with_suffix(".pub")
    refused = verify(results, public_key(stranger))
    assert {finding.kind for finding in refused.findings} == {Kind.unsigned}
    assert all("has no valid signature by this key" in finding.message for finding in refused.findings)


def test_two_may_sign_the_same_manifest(directory: Storage, tmp_path: Path) -> None:
    results = finished_run(directory)
    paths = [write_keys(tmp_path, name=name) for name in ("one", "two")]
    for path in paths:
        signed(results, path)
    assert all(verify(results, public_key(path.with_suffix(".pub"))).intact for path in paths)


def test_a_manifest_that_was_changed_after_it_was_signed_is_found(storage: Storage, tmp_path: Path) -> None:
    results = finished_run(storage)
    path = write_keys(tmp_path)
    signed(results, path)
    key = results.manifests["evaluate-0"].key
    edit(results.store, manifest_path(key), lambda document: document["metrics"].update(bleu2_ref=99.0))
    for public in (None, public_key(path.with_suffix(".pub"))):
        words = f"{provenance_path(key)} is of another manifest than the one that is there"
        assert said(verify(results_in(storage), public)) == [("changed", "evaluate-0", words)]
    signed(results_in(storage), path)
    assert verify(results_in(storage), public_key(path.with_suffix(".pub"))).intact


@pytest.mark.parametrize(
    "damaged",
    [
        b"",
        b"{",
        b"[]",
        b"[" * 100_000,
        b'{"payload": "!", "payloadType": "x", "signatures": []}',
        b'{"payload": "e30=", "payloadType": "application/vnd.in-toto+json", "signatures": [{"sig": "!"}]}',
        b'{"payload": "e30=", "payloadType": "application/vnd.in-toto+json", "signatures": 7}',
    ],
)
def test_what_is_no_envelope_is_a_finding_and_no_crash(tmp_path: Path, damaged: bytes) -> None:
    key = public_key(write_keys(tmp_path).with_suffix(".pub"))
    for public in (None, key):
        assert signature_fault(damaged, "0" * 64, public) == "is no signed in-toto statement"


def test_a_signature_counts_under_any_name_and_for_no_other_payload(tmp_path: Path) -> None:
    path = write_keys(tmp_path)
    key = public_key(path.with_suffix(".pub"))
    text = json.dumps({"subject": [{"name": "manifest.json", "digest": {"sha256": "1" * 64}}]}).encode()
    envelope = json.loads(sign(text, private_key(path)))
    for signature in envelope["signatures"]:
        del signature["keyid"]
    assert signature_fault(json.dumps(envelope).encode(), "1" * 64, key) is None
    other = json.loads(sign(text.replace(b"1", b"2"), private_key(path)))
    forged = json.dumps(envelope | {"payload": other["payload"]}).encode()
    assert signature_fault(forged, "2" * 64, key) == "has no valid signature by this key"
    renamed = json.dumps(envelope | {"payloadType": "text/plain"}).encode()
    assert signature_fault(renamed, "1" * 64, key) == "has no valid signature by this key"


def test_keys_that_cannot_be_used_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_keys(tmp_path)
    locked = write_keys(tmp_path, name="locked", passphrase=b"secret")
    (tmp_path / "text.pem").write_text("no key")
    for read, file, words in (
        (private_key, tmp_path / "absent.pem", "absent.pem does not exist"),
        (private_key, tmp_path / "text.pem", "is no private key"),
        (private_key, path.with_suffix(".pub"), "is no private key"),
        (public_key, path, "is no public key .* openssl pkey"),
        (private_key, locked, f"is encrypted: put its passphrase into {PASSPHRASE}"),
    ):
        with pytest.raises(PermanentError, match=words) as caught:
            read(file)
        assert caught.value.reason == "KeyInvalid"
    monkeypatch.setenv(PASSPHRASE, "secret")
    assert private_key(locked).public_key.keytype == "ed25519"
    with pytest.raises(PermanentError, match=f"is not encrypted: unset {PASSPHRASE}"):
        private_key(path)
    monkeypatch.setenv(PASSPHRASE, "wrong")
    with pytest.raises(PermanentError, match="or has another passphrase") as caught:
        private_key(locked)
    assert "wrong" not in str(caught.value)


# The commands.


@pytest.fixture
def command(directory: Storage) -> Callable[..., Result]:
    finished_run(directory)
    place = directory.uri.removeprefix("file://")
    return lambda name, *arguments: CliRunner().invoke(app, [name, "run", *map(str, arguments), "--storage", place])


def test_verify_says_what_it_found_and_fails_if_that_is_bad(
    command: Callable[..., Result], directory: Storage, tmp_path: Path
) -> None:
    passed = command("verify")
    assert (passed.exit_code, passed.output.splitlines()[-1]) == (0, "intact")
    results = results_in(directory)
    place = place_of(results, "M0")
    results.store.delete(place)
    failed = command("verify")
    assert failed.exit_code == 1
    assert f"missing   sft: {place} is missing" in failed.output.splitlines()
    assert "not intact: 1 missing. A run that is run again" in failed.output
    document = json.loads(command("verify", "-o", "json").stdout)
    assert document["intact"] is False
    assert document["findings"] == [{"kind": "missing", "stage": "sft", "message": f"{place} is missing"}]
    refused = command("sign", "--key", write_keys(tmp_path))
    assert isinstance(refused.exception, PermanentError)
    assert refused.exception.reason == "NotIntact"
    assert not results_in(directory).store.read(provenance_path(results.manifests["sft"].key))


def test_the_name_of_an_object_cannot_write_to_the_terminal(command: Callable[..., Result], directory: Storage) -> None:
    stage = Path(directory.uri.removeprefix("file://")) / stage_prefix(results_in(directory).manifests["sft"].key)
    Path(os.fsdecode(bytes(stage / "\x1b[2J") + b"\xff")).write_text("x")
    shown = command("verify")
    assert shown.exit_code == 0, shown.exception
    (line,) = [line for line in shown.output.splitlines() if line.startswith("foreign")]
    assert "\ufffd[2J\ufffd is in no manifest" in line
    (finding,) = json.loads(command("verify", "-o", "json").stdout)["findings"]
    assert "\x1b[2J\udcff" in finding["message"]


def test_what_was_signed_is_checked_and_copied_with_the_model(
    command: Callable[..., Result], directory: Storage, tmp_path: Path
) -> None:
    path = write_keys(tmp_path)
    done = command("sign", "--key", path)
    assert done.exit_code == 0, done.exception
    assert "tests/run: 4 manifests signed, key " in done.output
    assert f"check it: evolution verify run --storage {tmp_path / 'storage'} --key PUBLIC_KEY" in done.output
    assert "4 manifests are signed; name the public key" in command("verify").output
    checked = command("verify", "--key", path.with_suffix(".pub"))
    assert (checked.exit_code, checked.output.splitlines()[-1]) == (0, "intact, 4 signatures valid")
    assert command("get", "M0", "-o", tmp_path / "m").exit_code == 0
    results = results_in(directory)
    envelope = (tmp_path / "m/provenance.dsse.json").read_bytes()
    key = public_key(path.with_suffix(".pub"))
    assert signature_fault(envelope, manifest_digest(results.store, results.manifests["sft"].key), key) is None
    plain = json.loads((tmp_path / "m/provenance.json").read_bytes())
    sums = {each["name"]: each["digest"]["sha256"] for each in plain["subject"]}
    assert sums["adapter/nested/config.json"] == results.artifact("M0").output.files[1].sha256


def test_nothing_is_not_intact(tmp_path: Path) -> None:
    nothing = CliRunner().invoke(app, ["verify", str(manifest(tmp_path))])
    assert "has no finished stage of run first" in str(nothing.exception)


def test_a_content_digest_is_what_provenance_says_it_is(directory: Storage) -> None:
    output = finished_run(directory).artifact("M0").output
    assert output.digest == canonical_digest(sorted([file.path, file.sha256] for file in output.files))
