"""Documentation matches the code: links, reasons, manifests, values, commands and names."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from evolution_jobs.store.open import open_store
from evolution_jobs.store.s3 import S3Store
from evolution_operator.api.experiment import expand
from evolution_operator.api.run_file import read_document
from evolution_operator.api.validation import faults
from evolution_operator.cli.main import app
from typer.main import get_command

from tests.support.run_document import minimal_spec, run_document
from tests.support.storage.servers import s3_storage

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts/evolution-operator"
TOP = [ROOT / f"{name}.md" for name in ("README", "CONTRIBUTING", "SECURITY", ".github/PULL_REQUEST_TEMPLATE")]
PAGES = [*TOP, CHART / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BY_NAME = {str(page.relative_to(ROOT)): page for page in PAGES}

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
MENTION = re.compile(r"(?<![\w./-])docs/[\w-]+(?:\.md)?")
REASON = re.compile(r"^[A-Z](?=[A-Za-z-]*[a-z])[A-Za-z-]+$")

DECIDING = [
    *sorted((ROOT / "operator/evolution_operator/planner").glob("*.py")),
    *(
        ROOT / f"operator/evolution_operator/controller/{name}.py"
        for name in ("seen/attempts", "seen/endings", "seen/refusals", "executor", "seen/probe", "deletion")
    ),
]
"""Modules in which every CamelCase word is a reason, but for those of Kubernetes and of the status' enums below."""
NO_REASONS = {
    *("Accepted", "Progressing", "True", "False", "Normal", "Warning", "Waiting", "Queued", "Running", "Succeeded"),
    *("Delete", "FailedCreate", "PodFailurePolicy"),
    # Shown as ImagePullBackOff.
    *("ErrImagePull", "ErrImageNeverPull", "InvalidImageName", "RegistryUnavailable"),
}
REASON_CALLS = {"PermanentError", "TransientError", "InputError", "Failure", "Event", "Report", "fault", "__init__"}
"""Calls in which the first constant word is a reason."""


@pytest.mark.parametrize("page", BY_NAME.values(), ids=BY_NAME)
def test_every_relative_link_has_a_target(page: Path) -> None:
    dead = []
    for target in LINK.findall(FENCE.sub("", page.read_text())):
        path, _, anchor = target.partition("#")
        if "://" in target or target.startswith("mailto:"):
            continue
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            dead.append(target)
    assert not dead


def test_every_document_that_is_mentioned_anywhere_exists() -> None:
    folders = ("charts", "images", "examples", "hack", "jobs", "operator", "tests", "docs", "crds", "requirements")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file()]
    files += [path for path in ROOT.iterdir() if path.is_file()]
    lost = {}
    for path in files:
        if path.suffix in (".pyc", ".sum", ".jsonl") or path.stat().st_size > 1 << 20:
            continue
        for mention in MENTION.findall(path.read_text("utf-8", "ignore")):
            page = ROOT / f"{mention.removesuffix('.md')}.md"
            if not page.exists() and not (ROOT / mention).is_dir():
                lost[str(path.relative_to(ROOT))] = mention
    assert not lost


def test_every_reason_in_the_code_is_explained_and_no_other() -> None:
    given = {reason for path in sources() for reason in reasons(path)}
    assert {"StorageFull", "ObjectMissing", "OOMKilled", "ScoreInput", "CleanedUp", "Held"} <= given
    page = (ROOT / "docs/troubleshooting.md").read_text()
    tables = re.findall(r"^\| (`[A-Z].*?) \|", page, re.MULTILINE)
    explained = {word for cell in tables for word in re.findall(r"`([^`]+)`", cell)}
    # These are in prose: they are no failures.
    endings = ("Completed", "Cached", "ShardCompleted", "NodeCompleted")
    explained |= {word for word in re.findall(r"`(\w+)`", page) if word in endings}
    explained |= {word for word in re.findall(r"`(\w+)`", page) if word in ("CleanedUp", "RecordsUnknown")}
    assert given - explained == set(), "not in docs/troubleshooting.md"
    assert explained - given == set(), "in docs/troubleshooting.md, and nowhere in the code"


@pytest.mark.parametrize("page", BY_NAME.values(), ids=BY_NAME)
def test_every_manifest_and_every_value_in_it_is_valid(page: Path, tmp_path: Path) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    for language, text in FENCE.findall(page.read_text()):
        if language not in ("yaml", "json"):
            continue
        file = tmp_path / "block.yaml"
        for part in text.split("\n---\n"):
            file.write_text(part)
            document, found, _ = read_document(file)
            assert not found, part
            if text.startswith("# values.yaml"):
                jsonschema.validate(document, schema)
            elif document.get("kind") == "EvolutionRun" or set(document) == {"spec"}:
                assert faults(whole(document)) == [], part
            elif document.get("kind") == "Experiment":
                assert expand(document)[1] == [], part


@pytest.mark.parametrize("page", BY_NAME.values(), ids=BY_NAME)
def test_every_command_of_ours_in_it_exists(page: Path) -> None:
    text = page.read_text()
    code = "\n".join([*(body for _, body in FENCE.findall(text)), *re.findall(r"`([^`\n]+)`", FENCE.sub("", text))])
    targets = set(re.findall(r"^([\w./-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:^|[$ ])make ([a-z][\w./-]*)", code, re.MULTILINE)) <= targets
    commands = set(get_command(app).commands)  # type: ignore[attr-defined]
    assert set(re.findall(r"^(?:\$ )?(?:\S*/)?evolution ([a-z]+)\b", code, re.MULTILINE)) <= commands
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    for name in re.findall(r"--set(?:-json|-string)?[ =]'?([A-Za-z.]+)(?:\[\d+\])?=", code):
        assert has(values, name), name


def test_kind_config_is_one_node_of_a_pinned_kubernetes() -> None:
    config = yaml.safe_load((ROOT / "kind-config.yaml").read_text())
    assert (config["kind"], config["apiVersion"]) == ("Cluster", "kind.x-k8s.io/v1alpha4")
    assert re.search(rf"^KIND := {config['name']}$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert [
        re.match(r"kindest/node:v1\.34\.\d+@sha256:[0-9a-f]{64}$", node["image"]) is None for node in config["nodes"]
    ] == [False]


def test_the_demo_names_what_the_chart_and_the_example_name() -> None:
    makefile = (ROOT / "Makefile").read_text()
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    run = yaml.safe_load((ROOT / "examples/quickstart/evolutionrun-cluster.yaml").read_text())
    release, namespace = re.search(r"helm upgrade --install (\S+) charts/\S+ --namespace=(\S+)", makefile).groups()
    service = f"{release}-{chart['name']}-minio"
    assert run["spec"]["storage"]["endpoint"] == f"http://{service}.{namespace}:9000"
    assert run["spec"]["storage"]["credentialsSecret"] == values["minio"]["secretName"]
    assert run["spec"]["storage"]["uri"].startswith(f"s3://{values['minio']['bucket']}/")
    assert f"get evo {run['metadata']['name']}\n" in makefile
    for name in (values["image"], values["stages"]["image"]):
        assert f"{name['repository']}:$(VERSION)" in makefile
        assert not name["tag"], "kind-load tags images with the chart's appVersion"
    upload = (ROOT / "examples/quickstart/upload.py").read_text()
    for default in (namespace, service, values["minio"]["secretName"], values["minio"]["bucket"]):
        assert f'default="{default}"' in upload


def test_the_driver_in_install_is_that_of_the_pinned_cuda() -> None:
    pin = re.search(r"^nvidia-cuda-runtime==(\d+)\.(\d+)", (ROOT / "requirements/train.txt").read_text(), re.MULTILINE)
    assert pin is not None
    page = (ROOT / "docs/install.md").read_text()
    assert f"CUDA {pin[1]}.{pin[2]}" in page
    # NVIDIA's table of minor version compatibility: the branch that a major version began with.
    assert f"{ {'12': 525, '13': 580}[pin[1]] } or newer" in page


@pytest.mark.usefixtures("s3_environment")
def test_the_policy_allows_what_the_store_calls_and_the_table_names_it(moto: str, tmp_path: Path) -> None:
    storage = s3_storage(moto)
    store = open_store(storage)
    assert isinstance(store, S3Store)
    called: set[str] = set()
    store.bucket.client.meta.events.register("before-call.s3", lambda model, **_: called.add(model.name))
    (tmp_path / "large").write_bytes(bytes(17 << 20))
    store.put_file(tmp_path / "large", "stages/large")
    assert store.put_if_absent(b"1", "stages/small")
    assert store.read("stages/small") == b"1"
    store.get_file("stages/large", tmp_path / "again")
    assert store.sha256("stages/none") is None
    store.delete("stages/small")
    store.delete("stages/")
    page = (ROOT / "docs/storage.md").read_text()
    rows = [cells.split(" | ") for cells in re.findall(r"^\| (.* \| `s3:\w+`) \|$", page, re.MULTILINE)]
    rights = {call: cells[-1].strip("`") for cells in rows for call in re.findall(r"[A-Z]\w+", cells[0])}
    assert called - set(rights) == set()
    (policy,) = (json.loads(text) for language, text in FENCE.findall(page) if language == "json")
    allowed = {
        action
        for each in policy["Statement"]
        for action in ([each["Action"]] if isinstance(each["Action"], str) else each["Action"])
    }
    assert allowed == set(rights.values())


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def sources() -> list[Path]:
    return [path for folder in ("jobs", "operator") for path in sorted((ROOT / folder).rglob("*.py"))]


def reasons(path: Path) -> Iterator[str]:
    """Reasons that a module gives: those of errors, failures, events and reports, and all words where things are decided."""
    tree = ast.parse(path.read_text())
    if path in DECIDING:
        yield from set(words(tree)) - NO_REASONS
    constants = {
        target.id: statement.value
        for statement in tree.body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    }
    for call in ast.walk(tree):
        if not isinstance(call, ast.Call):
            continue
        name = call.func.id if isinstance(call.func, ast.Name) else getattr(call.func, "attr", "")
        if name in REASON_CALLS:
            first = [constants.get(each.id, each) if isinstance(each, ast.Name) else each for each in call.args[:2]]
            values = [each for each in first if isinstance(each, ast.Constant | ast.IfExp)]
            values += [keyword.value for keyword in call.keywords if keyword.arg == "reason"]
            yield from {word for each in values for word in words(each)} - NO_REASONS


def words(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and REASON.match(node.value):
            yield node.value


def whole(document: dict[str, Any]) -> dict[str, Any]:
    """A whole run document; a fragment of a spec is completed with what every spec must have."""
    if "kind" in document:
        return document
    least = minimal_spec()
    spec = {**least, **document["spec"]}
    spec["storage"] = {**least["storage"], **spec["storage"]}
    spec["data"] = {**least["data"], **spec["data"]}
    return run_document(spec)


def has(values: Any, path: str) -> bool:
    """Whether values.yaml knows a dotted path; what is below an empty map is the user's."""
    for name in path.split("."):
        if values == {}:
            return True
        if not isinstance(values, dict) or name not in values:
            return False
        values = values[name]
    return True
