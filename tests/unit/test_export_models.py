"""The exported folder, loaded again: an adapter, a merged model, and an upload to a fake hub that keeps what it gets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.contract.settings import EvaluationSettings, GenerationSettings
from evolution_jobs.store.base import file_sha256
from evolution_operator.cli.main import app
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from tests.support.stages.stored_run import Published
from tests.support.stages.tiny_model import random_adapter, tiny_model
from tests.support.storage.fake_hub import hub_in_place

pytestmark = pytest.mark.model

IDS = torch.tensor([[1, 50, 60, 70, 80]])
STATED = ["--base-licence", "apache-2.0", "--licence", "big-model=apache-2.0"]
FIGURE = {
    "name": "distinct2",
    "value": 91.5,
    "interval": [90.0, 93.0],
    "unit": "percent",
    "better": "higher",
    "rows": 10,
    "rowSet": "r",
    "method": "m",
    "human": 96.0,
}


@pytest.fixture(scope="module")
def run(small_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Published:
    directory = tmp_path_factory.mktemp("run")
    base = tiny_model(small_model, directory / "base")
    published = Published(directory / "store")
    metrics = directory / "metrics.json"
    metrics.write_text(json.dumps({"figures": [FIGURE]}))
    source = {"uri": "file:///home/me/seed.jsonl", "format": "esconv"}
    settings = {"baseModel": {"uri": "package://tiny"}, "seedData": [source]}
    published.stage("prepare", {"model": base, "test": metrics}, settings=settings)
    published.stage("sft", {"adapter": random_adapter(base, directory / "M0", seed=0)})
    published.stage("generate-1", {"responses": metrics}, settings=GenerationSettings(max_new_tokens=12).wire())
    weights = {"self": 1, "teacher": 1}
    teacher = {"model": "big-model", "url": "https://inner.example/v1", "apiKeySecret": "key-of-mine"}
    reflection = {"source": "mixed", "weights": weights, "teacher": teacher}
    published.stage("reflect-1", {"pairs": metrics}, settings=reflection, counts={"pairs": 10})
    published.stage("dpo-1", {"adapter": random_adapter(base, directory / "M1", seed=1)}, settings={"beta": 0.1})
    published.stage("evaluate-1", {"metrics": metrics}, settings=EvaluationSettings().wire())
    return published


@pytest.fixture
def base(run: Published) -> Path:
    return run.directory.parent / "base"


def export(run: Published, *arguments: str) -> dict[str, Any]:
    found = CliRunner().invoke(
        app, ["export", "first", "--storage", str(run.directory), "--output", "json", *arguments]
    )
    assert found.exit_code == 0, (found.exception, found.output)
    return json.loads(found.stdout)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.inference_mode():
        return model.eval()(IDS).logits.float()


def adapted(base: Path, adapter: Path) -> torch.Tensor:
    return logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter))


def test_an_adapter_loads_again_and_names_its_base_on_the_hub(run: Published, base: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    done = export(run, "-o", str(folder), "--base-model", "owner/tiny@v1", *STATED)
    assert done["model"] == "M1"
    assert done["licence"] == "cc-by-nc-4.0"
    assert done["notes"] == []
    config = json.loads((folder / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["revision"]) == ("owner/tiny", "v1")
    stored = run.directory.parent / "M1"
    assert torch.equal(adapted(base, folder), adapted(base, stored))
    for name in ("tokenizer.json", "chat_template.jinja"):
        assert (folder / name).read_bytes() == (base / name).read_bytes()
    sampling = json.loads((folder / "generation_config.json").read_text())
    assert (sampling["temperature"], sampling["max_new_tokens"], sampling["eos_token_id"]) == (0.9, 12, 2)
    front, body = (folder / "README.md").read_text().removeprefix("---\n").split("\n---\n", 1)
    card = yaml.safe_load(front)
    assert (card["base_model"], card["license"], card["library_name"]) == ("owner/tiny", "cc-by-nc-4.0", "peft")
    assert "91.50 [90.00, 93.00]" in body
    assert "/home/me" not in front + body
    assert "or a teacher's answer" in body
    assert "| `big-model` | apache-2.0 |" in body
    assert not [word for word in ("inner.example", "key-of-mine") if word in body]
    assert {"serve/vllm.yaml", "serve/kserve.yaml", "serve/GGUF.md"} <= done["files"].keys()
    statement = json.loads((folder / "provenance.json").read_text())
    digests = {each["name"]: each["digest"]["sha256"] for each in statement["subject"]}
    assert digests["adapter/adapter_model.safetensors"] == file_sha256(folder / "adapter_model.safetensors")
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.2)])
def test_a_merged_model_says_what_base_and_adapter_say(
    run: Published, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, tolerance: float
) -> None:
    # These random adapters change more than a round of DPO does, so rounding is small beside them.
    monkeypatch.setattr("evolution_operator.export.export.ROUNDING_WORTH_TELLING", 0.001)
    folder = tmp_path / "out"
    done = export(run, "-o", str(folder), "--merge", "--dtype", dtype, "--serve", "none")
    assert {path.stat().st_mode & 0o777 for path in folder.glob("*.safetensors")} == {0o644}
    assert "adapter_config.json" not in done["files"]
    model = AutoModelForCausalLM.from_pretrained(folder)
    assert str(model.dtype) == f"torch.{dtype}"
    wanted, plain = adapted(base, run.directory.parent / "M1"), logits(AutoModelForCausalLM.from_pretrained(base))
    assert (logits(model) - wanted).abs().max() < tolerance
    assert (plain - wanted).abs().max() > tolerance
    assert any("Rounding the merged weights to bfloat16" in note for note in done["notes"]) == (dtype == "bfloat16")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert "Hello" in tokenizer.apply_chat_template([{"role": "user", "content": "Hello"}], tokenize=False)


@pytest.mark.parametrize(
    "source", ["seed.jsonl", "data/seed.jsonl", "/home/me/seed.jsonl", "file:///home/me/seed.jsonl"]
)
def test_a_licence_counts_however_its_source_is_written(run: Published, tmp_path: Path, source: str) -> None:
    done = export(run, "-o", str(tmp_path / "out"), *STATED, "--licence", f"{source}=mit", "--serve", "none")
    assert done["licence"] == "apache-2.0"
    assert "| `seed.jsonl` | mit |" in (tmp_path / "out/README.md").read_text()


def test_what_cannot_be_read_is_no_fault_of_the_folder(
    run: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: Any) -> None:
        raise OSError("We couldn't connect to 'https://huggingface.co'")

    monkeypatch.setattr("evolution_operator.export.merge.generation_config", offline)
    command = ["export", "first", "--storage", str(run.directory), "-o", str(tmp_path / "out")]
    found = CliRunner().invoke(app, command)
    assert isinstance(found.exception, PermanentError)
    assert found.exception.reason == "ExportInput"
    assert "what is exported cannot be read: " in str(found.exception)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_not_overwritten_unless_forced(run: Published, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "mine").write_text("mine")
    command = ["export", "first", "--storage", str(run.directory), "--model", "M0", "-o", str(folder)]
    for arguments in ([], ["--force"]):
        refused = CliRunner().invoke(app, [*command, *arguments])
        assert isinstance(refused.exception, PermanentError)
        assert "no export has written it" in str(refused.exception)
        assert [path.name for path in folder.iterdir()] == ["mine"]
    (folder / "mine").unlink()
    done = export(run, "--model", "M0", "-o", str(folder))
    assert not [note for note in done["notes"] if "big-model" in note]
    (folder / "mine").write_text("mine")
    assert "mine" not in export(run, "--model", "M0", "-o", str(folder), "--force")["files"]
    assert any("not on the hub" in note for note in done["notes"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--dtype", "float32"], "it goes with --merge"),
        (["--licence", "seed.jsonl"], "write SOURCE=LICENCE"),
        (["--licence", "sead.jsonl=mit"], "--licence sead.jsonl=mit: the run read no such data; it read "),
        (["--licence", "seed.jsonl=free for all"], "--licence seed.jsonl=free for all: write"),
        (["--base-licence", "free for all"], "--base-licence free for all: write a name"),
        (["--base-model", "not a name"], "--base-model not a name: write OWNER/NAME"),
        (["--public"], "--public: it goes with --push"),
        (["--model", "base"], "name M0, M1"),
        (["--model", "M7"], "run first has M0, M1"),
        (["--push", "name"], "write OWNER/NAME"),
    ],
)
def test_a_mistake_is_one_message_and_no_folder(
    run: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    found = CliRunner().invoke(app, ["export", "first", "--storage", str(run.directory), *arguments])
    assert isinstance(found.exception, PermanentError)
    assert words in str(found.exception)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_pushed_to_a_private_repository(
    run: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with hub_in_place(monkeypatch, tmp_path / "cache") as hub:
        command = ["-o", str(tmp_path / "out"), "--push", "owner/m1", *STATED]
        missing = CliRunner().invoke(app, ["export", "first", "--storage", str(run.directory), *command])
        assert isinstance(missing.exception, PermanentError)
        assert missing.exception.reason == "CredentialsMissing"
        assert not (tmp_path / "out").exists()
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        done = export(run, *command)
    files = hub.repositories["models/owner/m1"]
    assert files["README.md"] == (tmp_path / "out/README.md").read_bytes()
    assert "adapter_model.safetensors" in files
    assert (tmp_path / "out/serve/vllm.yaml").exists()
    assert not [name for name in files if name.startswith("serve/") or name == "provenance.dsse.json"]
    assert str(run.directory.parent) not in "".join(
        files[name].decode() for name in files if name.endswith((".md", ".json"))
    )
    assert hub.created["owner/m1"].get("private") is True or hub.created["owner/m1"].get("visibility") == "private"
    assert set(hub.tokens) == {"hf_secret"}
    assert done["pushed"].endswith("owner/m1")
    card = tmp_path / "out/README.md"
    card.write_text(card.read_text().replace("license: cc-by-nc-4.0", "license: mit") + "Read by me.\n")
    with hub_in_place(monkeypatch, tmp_path / "cache") as hub:
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        sent = export(run, *command)
        assert hub.repositories["models/owner/m1"]["README.md"] == card.read_bytes()
        assert (sent["licence"], len(sent["notes"])) == ("mit", 1)
        card.write_text(card.read_text().replace("license: mit", "license: other\nlicense_name: unknown"))
        unknown = CliRunner().invoke(app, ["export", "first", "--storage", str(run.directory), *command])
        assert "with a licence that is not known: state it in its README.md" in str(unknown.exception)
        slip = CliRunner().invoke(
            app, ["export", "first", "--storage", str(run.directory), *command, "--licence", "sead.jsonl=mit"]
        )
        assert "the run read no such data" in str(slip.exception)
        export(run, *command, "--force")
        assert b"Read by me" not in hub.repositories["models/owner/m1"]["README.md"]
        # Another model's folder is not sent in this one's place.
        other = CliRunner().invoke(app, ["export", "first", "--storage", str(run.directory), "--model", "M0", *command])
        assert isinstance(other.exception, PermanentError)
        assert "--force" in str(other.exception)
    assert "hf_secret" not in json.dumps(done) + files["README.md"].decode()
