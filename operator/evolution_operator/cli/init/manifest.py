"""The text of a first run file. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from evolution_jobs.contract.locations import BaseModelSource, Source, Storage

from ...api.spec import API_VERSION, KIND
from .settings import CLUSTER, DATA, METHOD, block, commented, flow, one

Where = Literal["machine", "cluster"]

PREPARE = {"requests": {"cpu": 1, "memory": "1Gi"}}
"""What prepare asks for, which needs no GPU."""


@dataclass(frozen=True)
class Answers:
    """What the file is made of."""

    name: str
    where: Where
    model: BaseModelSource
    data: Source
    storage: Storage
    gpus: int = 0
    """GPUs of each Pod that loads the model; on a cluster only."""
    sure: bool = True
    """Whether it is known who helps whom in the data."""
    upload: str | None = None
    """The local file or directory that is to be uploaded to `data`."""


def manifest(answers: Answers) -> str:
    """The file: what was answered as fields, and what people change first as comments with the defaults."""
    lines = [
        "# A run: the base model is fine-tuned (sft: M0), and each round answers, reflects, rewrites and trains (dpo: M1, M2).",
        "# Lines such as `#iterations: 2` show a default. To change it, remove the # and write another value.",
        "# All fields: `kubectl explain evolutionrun.spec`, or the README of evolution-operator.",
        f"apiVersion: {API_VERSION}",
        f"kind: {KIND}",
        "metadata:",
        f"  name: {flow(answers.name)}",
        "spec:",
        "  baseModel:",
        *block(answers.model.wire(), 4),
        *(
            ["    #tokenSecret: hub   # the Secret with HF_TOKEN, if the model is gated"]
            if _asks_token(answers)
            else []
        ),
        "  storage:",
        *_storage(answers),
        "",
        "  data:",
        "    # Dialogues for SFT. Without the fields below, rounds answer them and evaluation holds some of them out.",
        "    seed:",
        *_seed(answers),
        *(line for shown in DATA for line in one(shown, shown.path.rpartition(".")[2], 4)),
        *_pods(answers),
        "",
        "  # ---- the method; the defaults are those of arXiv 2505.16610 ----",
        "",
        *commented(METHOD, 2),
    ]
    if answers.where == "cluster":
        lines += ["", "  # ---- the run on the cluster ----", "", *commented(CLUSTER, 2)]
    return "\n".join(lines) + "\n"


def _asks_token(answers: Answers) -> bool:
    hub = answers.model.uri.startswith("hf://")
    return answers.where == "cluster" and hub and answers.model.token_secret is None


def _storage(answers: Answers) -> list[str]:
    lines = block(answers.storage.wire(), 4)
    if answers.storage.uri.startswith("file://"):
        said = "relative to this file" if not answers.storage.uri.startswith("file:///") else "a directory"
        return [
            f"    # {said.capitalize()}. s3://bucket/prefix works the same, and can be shared by several machines.",
            *lines,
        ]
    unset = answers.storage.credentials_secret is None
    secret = ["    #credentialsSecret: s3   # the Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"]
    return [
        "    # The bucket must have conditional writes: AWS S3, a current MinIO. `evolution doctor` tries them.",
        *lines,
        *(secret if unset and answers.where == "cluster" else []),
    ]


def _seed(answers: Answers) -> list[str]:
    guess = (
        []
        if answers.sure
        else ["      # Who seeks help and who gives it is a guess: check mapping.seeker and mapping.supporter."]
    )
    return [*guess, *block([answers.data.wire()], 6)]


def _pods(answers: Answers) -> list[str]:
    if answers.where == "machine":
        return []
    if not answers.gpus:
        return [
            "",
            "  # What each stage's Pod asks for. A GPU is asked for with limits: {nvidia.com/gpu: 1}.",
            "  pod:",
            "    resources:",
            "      requests: {cpu: 1, memory: 4Gi}",
        ]
    return [
        "",
        "  # What each stage's Pod asks for. Add a memory limit once you know what your model needs.",
        "  pod:",
        "    resources:",
        f"      limits: {{nvidia.com/gpu: {answers.gpus}}}",
        "    #tolerations: [{key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}]   # if the GPU nodes have this taint",
        "  prepare:",
        "    pod:",
        f"      resources: {flow(PREPARE)}   # it reads, checks and pins, without a GPU",
    ]
