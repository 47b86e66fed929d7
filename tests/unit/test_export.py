"""The model card, its licence and the serving manifests, from facts alone; files of a Pod that serves."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from evolution_jobs import fetch
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.figures import Figure
from evolution_jobs.contract.locations import Storage
from evolution_jobs.contract.manifest import File, Output, canonical_digest
from evolution_jobs.contract.settings import GenerationSettings
from evolution_jobs.preference.prompts import SYSTEM
from evolution_jobs.store.open import open_store
from evolution_operator.export.card import evaluations, licence_of, metadata, page
from evolution_operator.export.facts import DataSource, Facts, Step, facts_of
from evolution_operator.export.folder import EXPORTED, write_adapter, written
from evolution_operator.export.licences import Licence, of_data, strictest
from evolution_operator.export.manifests import manifests
from evolution_operator.export.public import public, shown_uri
from evolution_operator.export.recipes import gguf_recipe
from evolution_operator.export.serving import Serving
from evolution_operator.results.find import results_of_pointers
from evolution_operator.results.weights import Base, weights_of

from tests.support.stages.stored_run import RUN, Published

GOLDEN = Path(__file__).parent / "golden/export"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("uri", "layout", "stated", "licence"),
    [
        ("hf://thu-coai/esconv", "esconv", None, "cc-by-nc-4.0"),
        ("file:///data/seed.jsonl", "esconv", None, "cc-by-nc-4.0"),
        ("file:///data/seed.jsonl", "esconv", "cc0-1.0", "cc0-1.0"),
        ("s3://data/extes.json", "extes", None, "unknown"),
        ("hf://owner/chats", "messages", None, "unknown"),
    ],
)
def test_a_data_licence_is_stated_or_known_and_never_invented(
    uri: str, layout: str, stated: str | None, licence: str
) -> None:
    assert of_data(uri, layout, stated) == licence


@pytest.mark.parametrize(
    ("parts", "licence"),
    [
        (["apache-2.0", "mit"], Licence("apache-2.0")),
        (["apache-2.0", "cc-by-nc-4.0"], Licence("cc-by-nc-4.0")),
        (["cc-by-nc-4.0", "cc-by-nc-4.0", "cc0-1.0"], Licence("cc-by-nc-4.0")),
        (["llama3", "cc-by-nc-4.0"], Licence("other", "cc-by-nc-4.0-and-llama3")),
        (["unknown", "cc-by-nc-4.0"], Licence("other", "cc-by-nc-4.0-and-unknown")),
        (["apache-2.0", "unknown"], Licence("other", "unknown")),
        # The hub refuses a card with a licence that it does not know.
        (["qwen-research"], Licence("other", "qwen-research")),
        (["llama3.1", "apache-2.0"], Licence("llama3.1")),
        (["Apache-2.0", "MIT"], Licence("apache-2.0")),
    ],
)
def test_the_models_licence_is_the_strictest(parts: list[str], licence: Licence) -> None:
    assert strictest(parts) == licence


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("file:///home/me/private/seed.jsonl", "seed.jsonl"),
        ("s3://secret-bucket/team/extes.json", "extes.json"),
        ("s3://secret-bucket/folder/", "folder"),
        ("hf://owner/name", "hf://owner/name"),
    ],
)
def test_a_card_has_no_private_paths(uri: str, shown: str) -> None:
    assert shown_uri(uri) == shown


def test_what_is_private_is_in_no_setting_and_no_provenance() -> None:
    teacher = {"model": "big", "url": "https://inner.example/v1", "apiKeySecret": "key"}
    model = {"uri": "s3://bucket/team/scorer", "endpoint": "http://minio:9000", "credentialsSecret": "s3"}
    document = {
        "teacher": teacher,
        "reward": {"model": model},
        "data": [{"uri": "file:///home/me/a.jsonl"}],
        "beta": 0.1,
    }
    assert public(document) == {
        "teacher": {"model": "big"},
        "reward": {"model": {"uri": "scorer"}},
        "data": [{"uri": "a.jsonl"}],
        "beta": 0.1,
    }
    assert public({"uri": "hf://owner/name@1", "_type": "https://in-toto.io/Statement/v1"}) == {
        "uri": "hf://owner/name@1",
        "_type": "https://in-toto.io/Statement/v1",
    }


def test_the_config_of_an_adapter_names_no_private_place(tmp_path: Path) -> None:
    adapter, folder = tmp_path / "adapter", tmp_path / "out"
    adapter.mkdir()
    folder.mkdir()
    (adapter / "adapter_config.json").write_text('{"r": 8}')
    (adapter / "adapter_model.safetensors").touch()
    private = Base("s3://bucket/team/chat-8b", None, Output(digest="b" * 64, files=[]))
    write_adapter(adapter, folder, replace(FACTS, base=private, base_name=None, base_revision=None))
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == "chat-8b"


def figure(name: str, value: float, low: float, high: float, human: float | None = None) -> Figure:
    return Figure(
        name=name,
        value=value,
        interval=[low, high],
        human=human,
        unit="percent",
        better="higher",
        rows=40,
        row_set="r",
        method=f"method of {name} <b>|",
    )


def output(name: str) -> Output:
    file = File(
        path="adapter_model.safetensors",
        location=f"stages/{name}/attempts/a/adapter/adapter_model.safetensors",
        sha256=canonical_digest(name),
        size=10,
    )
    return Output(digest=canonical_digest([name]), files=[file])


BASE = Base("hf://owner/chat-8b", f"hf://owner/chat-8b@{COMMIT}", Output(digest="b" * 64, files=[]))
FACTS = Facts(
    run="esconv",
    model="M2",
    iteration=2,
    base=BASE,
    base_name="owner/chat-8b",
    base_revision=COMMIT,
    base_licence="apache-2.0",
    quantization=None,
    data=[
        DataSource("seed", "hf://thu-coai/esconv", "esconv", "cc-by-nc-4.0", COMMIT, 900),
        DataSource("replay", "alpaca`|<script>.json", "alpaca", "unknown", "c" * 64, 500),
        DataSource("test", "hf://thu-coai/esconv", "esconv", "cc-by-nc-4.0", COMMIT, 100),
    ],
    settings={"sft": {"epochs": 1.0, "lora": {"r": 8, "alpha": 16}, "checkpointSteps": 50}, "dpo": {"beta": 0.1}},
    sampling=GenerationSettings(),
    steps=[Step("prepare", "1" * 64, "2" * 64), Step("sft", "3" * 64, "4" * 64), Step("dpo-2", "5" * 64, "6" * 64)],
    figures={
        "M0": [figure("distinct2", 90, 88, 92, 95), figure("bleu_sacre", 1, 0.5, 1.5)],
        "M2": [figure("distinct2", 93.456, 91, 95, 95), figure("bleu_sacre", 1.2, 0.6, 1.8)],
    },
    safety=False,
    judge=False,
    rows=40,
    pairs={1: 400, 2: 380},
    code={"evolution-operator": "0.1.0", "torch": "2.15.0"},
    sources=["self"],
)


def golden(name: str, text: str) -> None:
    """Compare with the stored file. After a wanted change: delete it, run the test twice, and read the difference."""
    file = GOLDEN / name
    if not file.exists():
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        pytest.fail(f"{file} was written; read it and run the test again")
    assert text == file.read_text()


def fill(directory: Path) -> None:
    for name in EXPORTED:
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text("new")


def test_force_replaces_only_what_an_export_has_written(tmp_path: Path) -> None:
    folder, mine = tmp_path / "out", tmp_path / "mine"
    written(folder, fill, force=False)
    (folder / "old").touch()
    with pytest.raises(PermanentError, match="replace it with --force"):
        written(folder, fill, force=False)
    written(folder, fill, force=True)
    assert sorted(each.name for each in folder.iterdir()) == ["provenance.json", "serve"]
    mine.mkdir()
    (mine / "provenance.json").write_text("of evolution get")
    with pytest.raises(PermanentError, match="no export has written it"):
        written(mine, fill, force=True)
    assert (mine / "provenance.json").read_text() == "of evolution get"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["mine", "out"]


@pytest.mark.parametrize("place", [".", "runs", "runs/stages", "link"])
def test_no_export_replaces_a_directory_above_or_in_the_storage(tmp_path: Path, place: str) -> None:
    fill(tmp_path)
    (tmp_path / "runs/stages").mkdir(parents=True)
    fill(tmp_path / "runs")
    (tmp_path / "link").symlink_to("runs")
    with pytest.raises(PermanentError, match="the run's storage"):
        written(tmp_path / place, fill, force=True, storage=tmp_path / "runs")
    assert (tmp_path / "runs/stages").is_dir()


def test_a_link_and_the_working_directory_are_where_they_point(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "link").symlink_to("out")
    written(tmp_path / "link", fill, force=False)
    written(tmp_path / "link", fill, force=True)
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "out/provenance.json").exists()
    monkeypatch.chdir(tmp_path / "out")
    with pytest.raises(PermanentError, match="replace it with --force"):
        written(Path(), fill, force=False)


def test_the_card_of_an_adapter() -> None:
    golden("card.md", page(FACTS, merged=False))


def test_what_a_card_says_of_a_model() -> None:
    text = page(FACTS, merged=False)
    assert SYSTEM in text
    assert "93.46 [91.00, 95.00] | 90.00 [88.00, 92.00] | 95.00 |" in text
    assert "ESConv (cc-by-nc-4.0), which may not be used commercially. Neither may this model." in text
    assert "unknown: state it" in text
    assert "<script>" not in text
    assert "evaluation.safety` was off" in text
    assert "not a therapist" in text
    assert "Nobody has looked" not in page(replace(FACTS, safety=True), merged=False)
    assert "It was not evaluated." in page(replace(FACTS, rows=0, figures={}), merged=False)
    assert "quantised to nf4" in page(replace(FACTS, quantization="nf4"), merged=False)
    merged = page(FACTS, merged=True, rounding="Rounding has cost 20 %.")
    assert "Rounding has cost" in merged
    assert "peft" not in merged


@pytest.mark.parametrize(
    ("sources", "said", "unsaid"),
    [
        (["self"], "from dialogues and from its own rewrites,", "teacher"),
        (["human"], "from dialogues, with", "rewr"),
        (["teacher"], "from dialogues and from a teacher's answers,", "rewr"),
        (["reward"], "the best of several of its own answers", "rewr"),
        (["self", "teacher"], "reflecting on the user or a teacher's answer", "reward"),
    ],
)
def test_a_card_says_where_the_preferred_answers_come_from(sources: list[str], said: str, unsaid: str) -> None:
    text = page(replace(FACTS, sources=sources), merged=False)
    assert said in text
    assert unsaid not in text
    assert ("2505.16610" in text) == ("self" in sources)


def test_a_card_of_m0_has_no_word_of_dpo() -> None:
    first = replace(FACTS, model="M0", iteration=0, sources=[], pairs={}, settings={})
    assert "dpo" not in metadata(first, merged=False)["tags"]
    text = page(first, merged=False)
    assert "before any round of DPO" in text
    assert "rewr" not in text


def test_the_licence_of_a_teachers_answers_has_to_be_stated() -> None:
    teacher = DataSource("teacher", "big-model", "", "unknown", "", None)
    facts = replace(FACTS, data=[FACTS.data[0], teacher], sources=["teacher"])
    assert licence_of(facts) == Licence("other", "cc-by-nc-4.0-and-unknown")
    assert "| teacher, whose answers it was trained on | `big-model` | unknown: state it |" in page(facts, merged=False)


HOSTILE = "1.0`\n# Licence: MIT\n<script>x</script> ![p](https://spy.example/p) [MIT](https://spy.example)\n```\n"


@pytest.mark.parametrize("merged", [False, True])
def test_no_name_from_a_storage_is_markup(merged: bool) -> None:
    hostile = replace(
        FACTS,
        code={"evolution-operator": HOSTILE, HOSTILE: "1"},
        base_name=HOSTILE,
        base_revision=HOSTILE,
        base_licence=HOSTILE,
        data=[DataSource("seed", HOSTILE, HOSTILE, HOSTILE, HOSTILE, HOSTILE)],  # type: ignore[arg-type]
        settings={"sft": {HOSTILE: HOSTILE}},
        steps=[Step(HOSTILE, HOSTILE, HOSTILE)],
    )
    for text in (page(hostile, merged=merged), gguf_recipe(hostile, merged=merged)):
        assert not re.search(r"^# Licence: MIT", text, re.MULTILINE)
        code = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
        assert "<script>" not in code
        # In code spans brackets mean nothing.
        assert not re.search(r"(?<!\\)\[(p|MIT)(?<!\\)\]\(", re.sub(r"`[^`\n]*`", "", code))


def test_the_front_matter_names_base_data_and_licence() -> None:
    found = metadata(FACTS, merged=False)
    assert (found["base_model"], found["base_model_relation"], found["library_name"]) == (
        "owner/chat-8b",
        "adapter",
        "peft",
    )
    assert (found["license"], found["license_name"]) == ("other", "cc-by-nc-4.0-and-unknown")
    assert found["datasets"] == ["thu-coai/esconv"]
    private = metadata(replace(FACTS, base_name=None), merged=True)
    assert (private["base_model"], private["base_model_relation"], private["library_name"]) == (
        None,
        None,
        "transformers",
    )
    (bleu,) = evaluations(FACTS)
    assert (bleu["metric_type"], bleu["metric_value"], bleu["dataset_type"]) == ("bleu", 1.2, "thu-coai/esconv")
    # A set that the model is only tested on does not bind it.
    tested = [replace(FACTS.data[0], licence="apache-2.0"), FACTS.data[2]]
    assert licence_of(replace(FACTS, data=tested)) == Licence("apache-2.0")
    answered = [DataSource("contexts", "talks.jsonl", "messages", "cc-by-nc-4.0", "", 4)]
    assert licence_of(replace(FACTS, data=answered)) == Licence("cc-by-nc-4.0")
    assert licence_of(replace(FACTS, data=answered, iteration=0)) == Licence("apache-2.0"), (
        "M0 has not learnt from them"
    )


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"figures": [{"name": "bleu"}]}', "\\udc00"])
def test_an_evaluation_in_another_layout_is_named_and_ends_no_export(tmp_path: Path, text: str) -> None:
    file = tmp_path / "metrics.json"
    file.write_text(text)
    published = Published(tmp_path / "store")
    published.stage("prepare", {"model": file, "test": file}, settings={"baseModel": {"uri": "package://tiny"}})
    published.stage("sft", {"adapter": file})
    published.stage("evaluate-0", {"metrics": file})
    with weights_of(results_of_pointers(published.store, RUN.namespace, RUN.name)) as weights:
        found = facts_of(
            weights, "M0", base_name=None, base_revision=None, base_licence="mit", stated={}, quantization=None
        )
    assert (found.figures, found.unread) == ({}, [] if text == "{}" else ["metrics-0"])
    body = page(found, merged=False)
    assert ("metrics-0 could not be read" in body) != ("It was not evaluated." in body)


def serving(**others: Any) -> Serving:
    given: dict[str, Any] = {
        "namespace": "lab",
        "adapters": {name: output(name) for name in ("M0", "M1", "M2")},
        "storage": Storage(
            uri="s3://evolution/runs", endpoint="http://minio.minio:9000", region="eu-1", credentials_secret="s3"
        ),
        "max_lora_rank": 8,
        "length": 2048,
        "vllm_image": "vllm/vllm-openai:v0.33.0",
        "fetch_image": "evolution-operator/operator:0.1.0",
        "token_secret": "hub",
        "facts": FACTS,
    }
    return Serving(**given | others)


@pytest.mark.parametrize("kind", ["vllm", "kserve"])
def test_the_manifests_of_a_hub_model_in_s3(kind: str) -> None:
    golden(f"{kind}.yaml", manifests(serving(), [kind])[f"{kind}.yaml"])


def documents(kind: str, given: Serving) -> dict[str, Any]:
    return {each["kind"]: each for each in yaml.safe_load_all(manifests(given, [kind])[f"{kind}.yaml"])}


def test_a_base_model_that_the_run_has_copied_is_fetched_too() -> None:
    copied = Base("package://model", None, Output(digest="b" * 64, files=output("base").files))
    given = serving(facts=replace(FACTS, base=copied, base_name=None))
    found = documents("vllm", given)
    files = json.loads(found["ConfigMap"]["data"]["files.json"])["files"]
    assert [each["path"].partition("/")[0] for each in files] == ["M0", "M1", "M2", "base"]
    assert found["Deployment"]["spec"]["template"]["spec"]["containers"][0]["args"][0] == "/models/base"
    model = documents("kserve", given)["LLMInferenceService"]["spec"]["model"]
    assert model["uri"] == "s3://evolution/runs/stages/base/attempts/a/adapter"


def test_a_base_model_on_a_volume_is_mounted() -> None:
    volume = Base("pvc://models/chat-8b", "pvc://models/chat-8b", Output(digest="b" * 64, files=[]))
    given = serving(facts=replace(FACTS, base=volume, base_name=None), gpus=2)
    pod = documents("vllm", given)["Deployment"]["spec"]["template"]["spec"]
    assert pod["containers"][0]["args"][0] == "/base/chat-8b"
    assert pod["containers"][0]["args"][-2:] == ["--tensor-parallel-size", "2"]
    assert {"name": "base", "persistentVolumeClaim": {"claimName": "models", "readOnly": True}} in pod["volumes"]
    assert documents("kserve", given)["LLMInferenceService"]["spec"]["model"]["uri"] == "pvc://models/chat-8b"


def test_models_of_a_storage_in_a_directory_come_from_a_claim() -> None:
    given = serving(storage=Storage(uri="file:///runs"), token_secret=None)
    text = manifests(given, ["vllm", "kserve"])
    assert "# PersistentVolumeClaim: esconv-serve-models" in text["vllm.yaml"]
    assert "evolution get RUN-FILE M0 M1 M2 -o models\n" in text["kserve.yaml"]
    alone = replace(given, adapters={"M0": given.adapters["M0"]})
    assert "evolution get RUN-FILE M0 -o models/M0\n" in manifests(alone, ["vllm"])["vllm.yaml"]
    found = documents("vllm", given)
    assert "ConfigMap" not in found
    assert "initContainers" not in found["Deployment"]["spec"]["template"]["spec"]
    adapters = documents("kserve", given)["LLMInferenceService"]["spec"]["model"]["lora"]["adapters"]
    assert adapters[2] == {"name": "M2", "uri": "pvc://esconv-serve-models/M2"}


def test_the_pods_meet_the_restricted_standard() -> None:
    pod = documents("vllm", serving())["Deployment"]["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in [*pod["initContainers"], *pod["containers"]]:
        context = container["securityContext"]
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
    assert {volume.keys() - {"name"} == {"emptyDir"} for volume in pod["volumes"]} == {True, False}


def test_the_manifests_have_no_field_that_kubernetes_does_not_know() -> None:
    from kubernetes import client

    found = documents("vllm", serving())
    for kind, model in (("Deployment", "V1Deployment"), ("Service", "V1Service"), ("ConfigMap", "V1ConfigMap")):
        assert unknown(client, found[kind], model) == []


def unknown(client: Any, value: Any, model: str, at: str = "") -> list[str]:
    """Paths of fields that the Kubernetes client's model does not have."""
    if inner := re.fullmatch(r"list\[(.+)\]", model):
        return [path for each in value for path in unknown(client, each, inner[1], at)]
    kind = getattr(client, model, None)
    if kind is None or not hasattr(kind, "attribute_map"):
        return []
    fields = {wire: kind.openapi_types[name] for name, wire in kind.attribute_map.items()}
    found = [f"{at}.{name}" for name in value if name not in fields]
    for name, inner_value in value.items():
        if name in fields:
            found += unknown(client, inner_value, fields[name], f"{at}.{name}")
    return found


def test_the_gguf_recipe_follows_what_was_exported() -> None:
    adapter, merged = gguf_recipe(FACTS, merged=False), gguf_recipe(FACTS, merged=True)
    assert "convert_lora_to_gguf.py . --base BASE" in adapter
    assert f"hf download owner/chat-8b --revision {COMMIT}" in adapter
    assert "convert_hf_to_gguf.py . --outtype bf16" in merged
    assert "lora" not in merged.partition("```console")[2].partition("```")[2]


def test_a_pod_fetches_files_by_digest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = Storage(uri=(tmp_path / "store").as_uri())
    (tmp_path / "file").write_text("weights")
    store = open_store(storage)
    store.put_file(tmp_path / "file", "stages/a/adapter/adapter_model.safetensors")
    digest = store.sha256("stages/a/adapter/adapter_model.safetensors")
    document = {
        "storage": storage.wire(),
        "files": [
            {
                "path": "M0/adapter_model.safetensors",
                "location": "stages/a/adapter/adapter_model.safetensors",
                "sha256": digest,
            }
        ],
    }
    spec = tmp_path / "files.json"
    monkeypatch.setattr("sys.argv", ["fetch", str(spec), str(tmp_path / "models")])
    spec.write_text(json.dumps(document))
    assert fetch.main() == 0
    assert (tmp_path / "models/M0/adapter_model.safetensors").read_text() == "weights"
    assert fetch.main() == 0
    document["files"][0] |= {"sha256": "0" * 64, "path": "M1/adapter_model.safetensors"}  # type: ignore[index]
    spec.write_text(json.dumps(document))
    assert fetch.main() == 75
    assert "ObjectCorrupt" in capsys.readouterr().err
    assert not (tmp_path / "models/M1/adapter_model.safetensors").exists()
    document["files"][0] |= {"path": "../out"}  # type: ignore[index]
    spec.write_text(json.dumps(document))
    assert fetch.main() == 65
    spec.write_text("{")
    assert fetch.main() == 65
    assert "SpecInvalid" in capsys.readouterr().err
