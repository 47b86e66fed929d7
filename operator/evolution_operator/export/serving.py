"""What is served of a run: the base model and all adapters, how they are sampled, and with what. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evolution_jobs.contract.locations import Storage
from evolution_jobs.contract.manifest import Output

from ..results.weights import Base
from .facts import Facts

Object = dict[str, Any]


@dataclass(frozen=True)
class Serving:
    """What is served, and how."""

    facts: Facts
    """Of the exported model."""
    namespace: str
    adapters: Mapping[str, Output]
    """M0, M1, ..., each with its files in the storage."""
    storage: Storage
    max_lora_rank: int
    """A rank that vLLM has kernels for, and no lower than that of any adapter."""
    length: int
    """Longest sequence of prompt and answer, in tokens."""
    vllm_image: str
    fetch_image: str
    """An image of this project, whose Python fetches files and checks their digests."""
    token_secret: str | None = None
    """Secret with `HF_TOKEN`."""
    gpus: int = 1
    memory: str = "32Gi"

    @property
    def name(self) -> str:
        """Name of all objects. Names of Services have at most 63 characters."""
        return f"{self.facts.run}"[:56] + "-serve"

    @property
    def claim(self) -> str:
        """PersistentVolumeClaim with the models, where the run's storage is out of a cluster's reach."""
        return f"{self.name}-models"

    @property
    def base(self) -> Base:
        """The base model."""
        return self.facts.base

    @property
    def fetched(self) -> Mapping[str, Output]:
        """What the Pod fetches from the storage, by directory."""
        return dict(self.adapters) | ({} if self.base.reference else {"base": self.base.output})

    @property
    def sampling(self) -> Mapping[str, float]:
        """The run's way to sample, for requests that say nothing else."""
        sampling = self.facts.sampling
        return {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
            "repetition_penalty": sampling.repetition_penalty,
        }


def base_claim(base: Base) -> tuple[str, str] | None:
    """Claim and path of a base model on a volume."""
    if base.reference is None or not base.reference.startswith("pvc://"):
        return None
    claim, _, path = base.reference.removeprefix("pvc://").partition("/")
    return claim, path
