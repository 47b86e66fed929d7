"""From `helm install` to M2 in real Pods, by the commands of the pages: the quickstart, its artifacts, and other runs that use them."""

from __future__ import annotations

import importlib.metadata
import json
import math
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from hack.cluster.image_names import full_name
from tests.api.harness import Runs, stage
from tests.cluster.harness import (
    MINIO,
    NAMESPACE,
    OPERATOR_PODS,
    RELEASE,
    Bucket,
    Cluster,
    example_run,
    read_manifests,
)
from tests.support.shell import Shell

pytestmark = pytest.mark.timeout(3600)


@pytest.fixture(scope="module")
def registry(cluster: Cluster, shell: Shell) -> str:
    """The registry of docs/install.md. It does not exist, so the images are on the node under its names."""
    if cluster.node is None:
        pytest.skip("kind's nodes have the images only under the chart's own names")
    shell.walk("install.md", "Images")
    registry, version = shell.run('echo "$REGISTRY $VERSION"').split()
    for name in ("operator", "train"):
        cluster.node.containerd.tag(
            f"docker.io/evolution-operator/{name}:{version}", full_name(f"{registry}/{name}:{version}")
        )
    return registry


def test_the_chart_is_installed_from_a_registry(cluster: Cluster, shell: Shell, registry: str) -> None:
    shell.walk("install.md", "Install the chart")
    try:
        pod, *others = cluster.core.list_namespaced_pod(NAMESPACE, label_selector=OPERATOR_PODS).items
        assert not others
        assert pod.spec.containers[0].image.startswith(f"{registry}/operator:")
    finally:
        cluster.helm("uninstall", RELEASE, "--wait")
        cluster.kubectl("delete", "namespace", NAMESPACE)


def test_a_team_with_its_own_namespace_creates_runs_there_and_nowhere_else(
    cluster: Cluster, shell: Shell, registry: str
) -> None:
    shell.walk("install.md", "One namespace, or some")
    try:
        ask = ["auth", "can-i", "create", "evolutionruns.evolution.run", "--as=member", "--as-group=team-a"]
        assert cluster.kubectl(*ask, "--namespace=team-a").strip() == "yes"
        elsewhere = cluster.core.list_namespaced_pod(NAMESPACE, label_selector=OPERATOR_PODS).items
        assert elsewhere == []
        (pod,) = cluster.core.list_namespaced_pod("team-a", label_selector=OPERATOR_PODS).items
        assert pod.status.container_statuses[0].ready
    finally:
        cluster.kubectl("delete", "namespace", "team-a")


def test_every_stage_ran_once_and_left_intact_artifacts(
    finished: dict[str, Any], bucket: Bucket, tmp_path: Path
) -> None:
    stages = finished["status"]["stages"]
    assert [(each["id"], each["state"], each["attempts"]) for each in stages] == [
        (each["id"], "Succeeded", 1) for each in stages
    ]
    assert stage(finished, "generate-1")["shards"] == "2/2"
    with bucket.store() as store:
        manifests = read_manifests(store, finished)
        for round_ in (1, 2):
            pairs = manifests[f"reflect-{round_}"].outputs["pairs"].files[0]
            store.get_file(pairs.location, tmp_path / "pairs.jsonl", pairs.sha256)
            rows = [json.loads(line) for line in (tmp_path / "pairs.jsonl").read_text().splitlines()]
            assert rows
            assert all(row["chosen"] and row["chosen"] != row["rejected"] for row in rows)
    for before, after in (("sft", "dpo-1"), ("dpo-1", "dpo-2")):
        assert manifests[after].inputs["adapter"] == manifests[before].outputs["adapter"].digest
        first = manifests[after].details["reference"]["firstStep"]["sigmoid"]
        assert math.isclose(first, math.log(2), rel_tol=1e-4), (
            "before the first step, policy and reference are the same"
        )
    assert {entry["iteration"] for entry in finished["status"]["metrics"]} == {0, 1, 2}


def test_an_adapter_from_the_bucket_answers_a_prompt_without_this_project(
    finished: dict[str, Any], bucket: Bucket, small_model: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with bucket.store() as store:
        files = read_manifests(store, finished)["dpo-2"].outputs["adapter"].files
    for file in files:
        bucket.download(f"runs/{file.location}", tmp_path / file.path)
    tokenizer = AutoTokenizer.from_pretrained(small_model)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(small_model), tmp_path)
    messages = [{"role": "user", "content": "I lost my job last week and I cannot sleep."}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    written = model.generate(**prompt, max_new_tokens=24, do_sample=False)
    answer = tokenizer.decode(written[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    assert len(answer.split()) > 3
    assert any("lora_B" in name and bool(weight.any()) for name, weight in model.named_parameters()), "it was trained"


def test_a_run_of_another_namespace_reuses_the_results_in_the_bucket(finished: dict[str, Any], elsewhere: Runs) -> None:
    elsewhere.apply(example_run("again", elsewhere.namespace))
    run = elsewhere.wait_phase("again", "Complete", timeout=600)
    cached = {each["id"]: each.get("cached", False) for each in run["status"]["stages"]}
    assert cached.pop("prepare") is False, "it reads the data again"
    assert all(cached.values())
    assert [job.metadata.labels["evolution.run/stage"] for job in elsewhere.jobs()] == ["prepare"]
    keys = {each["id"]: each["key"] for each in run["status"]["stages"] if each["id"] != "prepare"}
    assert keys == {name: stage(finished, name)["key"] for name in keys}


def test_a_raised_iteration_count_adds_one_round(finished: dict[str, Any], elsewhere: Runs) -> None:
    elsewhere.apply(example_run("short", elsewhere.namespace, iterations=1))
    elsewhere.wait_phase("short", "Complete", timeout=600)
    elsewhere.patch("short", {"spec": {"iterations": 2}})
    run = elsewhere.wait_phase("short", "Complete", timeout=600)
    assert {each["id"] for each in run["status"]["stages"] if not each.get("cached")} == {"prepare"}
    assert {entry["iteration"] for entry in run["status"]["metrics"]} == {0, 1, 2}


def test_the_results_are_where_the_page_says(finished: dict[str, Any], shell: Shell) -> None:
    keys = {line.split()[-1] for line in shell.walk("quickstart-kind.md", "Look at the results").splitlines() if line}
    assert any(key.startswith("runs/runs/evolution/quickstart/") for key in keys), "the run's record"
    assert {f"runs/runs/evolution/quickstart/{name}" for name in ("M0", "M1", "M2", "pairs-1", "answers-2")} <= keys
    for each in finished["status"]["stages"]:
        assert f"runs/stages/{each['key']}/manifest.json" in keys, each["id"]


def test_an_upgrade_keeps_the_run_and_its_artifacts(
    finished: dict[str, Any], release: Cluster, runs: Runs, shell: Shell, bucket: Bucket
) -> None:
    shell.walk("install.md", "Upgrade")
    run = runs.wait_phase("quickstart", "Complete", timeout=60)
    assert run["status"]["stages"] == finished["status"]["stages"]
    with bucket.store() as store:
        read_manifests(store, run)


def test_stages_have_no_token_and_no_permissions(finished: dict[str, Any], runs: Runs) -> None:
    pods = runs.core.list_namespaced_pod(NAMESPACE, label_selector="evolution.run/run=quickstart").items
    assert pods
    for pod in pods:
        assert pod.spec.automount_service_account_token is False
        (container,) = pod.spec.containers
        assert container.security_context.read_only_root_filesystem
        mounted = {mount.mount_path for mount in container.volume_mounts}
        assert not any("serviceaccount" in path for path in mounted)


def test_the_command_line_shows_the_run(finished: dict[str, Any], release: Cluster) -> None:
    output = release.evolution("status", "quickstart", "--namespace", NAMESPACE)
    assert "Complete" in output
    assert "dpo-2" in output
    table = release.kubectl("get", "evo", f"--namespace={NAMESPACE}")
    assert "quickstart" in table
    assert "11/11" in table


def test_doctor_tries_image_and_storage_in_a_pod_of_its_own(release: Cluster, runs: Runs, tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    arguments = ("doctor", "--pods", "-f", str(file), "--output", "json")
    file.write_text(json.dumps(example_run("first")))
    found = {each["name"]: each for each in json.loads(release.evolution(*arguments))["checks"]}
    tried = {name: each["state"] for name, each in found.items() if name.endswith("(from a Pod)")}
    assert tried.pop("storage: conditional write (from a Pod)") == "ok"
    assert len(tried) > 3
    assert set(tried.values()) == {"ok"}

    wrong = {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "wrong-secret"}
    runs.core.create_namespaced_secret(NAMESPACE, {"metadata": {"name": "wrong"}, "stringData": wrong})
    file.write_text(json.dumps(example_run("first", storage={"credentialsSecret": "wrong"})))
    code, printed = release.refusal(*arguments)
    failed = [each for each in json.loads(printed)["checks"] if each["state"] == "failed"]
    assert code == 1
    assert any("(from a Pod)" in each["name"] and "nobody" not in each["found"] for each in failed), failed
    assert runs.core.list_namespaced_pod(NAMESPACE, label_selector="evolution.run/run=evolution-doctor").items == []


def test_what_a_refused_chat_prints_leads_to_a_chat_with_the_last_model(
    finished: dict[str, Any], release: Cluster, bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = ("quickstart", "--namespace", NAMESPACE)
    for name in bucket.keys:
        monkeypatch.delenv(name, raising=False)
    code, printed = release.refusal("chat", *run, "--model", "M2", "--message", "I lost my job.")
    assert code == 1
    for words in (
        f"port-forward -n {NAMESPACE} service/{MINIO} 9000:9000",
        "--endpoint http://localhost:9000",
        "AWS_SECRET_ACCESS_KEY",
    ):
        assert words in printed
    for name, value in bucket.keys.items():
        assert value not in printed
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with bucket.forwarded() as endpoint:
        said = json.loads(
            release.evolution(
                *("chat", *run, "--endpoint", endpoint, "--model", "M2", "--against", "M0"),
                *("--message", "I lost my job.", "--output", "json"),
            )
        )
        assert "intact" in release.evolution("verify", *run, "--endpoint", endpoint)
        release.evolution("report", *run, "--endpoint", endpoint, "-o", str(tmp_path / "report.html"))
    assert [each["model"] for each in said["answers"]] == ["M2", "M0"], said
    assert all(each["text"] for each in said["answers"])
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")


def test_the_dashboard_shows_the_run_through_a_forwarded_port(finished: dict[str, Any], release: Cluster) -> None:
    with (
        release.dashboard() as address,
        urllib.request.urlopen(f"{address}runs/{NAMESPACE}/quickstart.json", timeout=30) as answer,
    ):
        shown = json.loads(answer.read())
    assert (shown["phase"], shown["done"], shown["models"]) == ("Complete", 11, [0, 1, 2])
    # The Pod's own address, which is how other Pods come.
    script = (
        "import socket, urllib.request, urllib.error\n"
        "address = socket.gethostbyname(socket.gethostname())\n"
        "try: print(urllib.request.urlopen(f'http://{address}:8080/runs.json', timeout=10).status)\n"
        "except urllib.error.HTTPError as error: print(error.code)"
    )
    operator = "deployment/evo-evolution-operator"
    code = release.kubectl("exec", f"--namespace={NAMESPACE}", operator, "--", "python", "-c", script)
    assert code.strip() == "403", "who comes by the network gets nothing"


def test_the_operator_image_is_small_and_holds_no_torch(release: Cluster) -> None:
    script = (
        "import os, sys, importlib.util as u;"
        "total = sum(os.lstat(os.path.join(d, f)).st_size for top in ('/opt/evolution', '/opt/code')"
        " for d, _, fs in os.walk(top) for f in fs);"
        "print(total, u.find_spec('torch') is None)"
    )
    output = release.kubectl(
        "exec", f"--namespace={NAMESPACE}", "deployment/evo-evolution-operator", "--", "python", "-c", script
    )
    size, without_torch = output.split()
    assert int(size) < 200_000_000
    assert without_torch == "True"


def test_pinned_versions_are_what_the_image_runs(finished: dict[str, Any], bucket: Bucket) -> None:
    with bucket.store() as store:
        code = read_manifests(store, finished)["sft"].code
    assert code["peft"] == importlib.metadata.version("peft")
    assert code["transformers"] == importlib.metadata.version("transformers")
