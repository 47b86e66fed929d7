"""`evolution export`: a model of a run as a folder for the Hugging Face Hub, with manifests that serve it."""

from __future__ import annotations

import json
import re
from enum import StrEnum
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from evolution_jobs.contract.errors import PermanentError
from rich.filesize import decimal

from .console import open_console, say
from .libraries import require_libraries
from .named import EndpointOption, NamespaceOption, RunArgument, read_results
from .options import Output, StorageOption

if TYPE_CHECKING:
    from ..export.export import Exported
    from ..export.facts import Facts
    from ..export.serving import Serving
    from ..results.results import Results
    from ..results.weights import Weights

LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]*")
"""A name that the hub takes in `license` or `license_name`."""
VLLM_IMAGE = "vllm/vllm-openai:v0.33.0"
"""The version that the stages' image with vLLM has."""


class Serve(StrEnum):
    """Which manifests are written."""

    vllm = "vllm"
    kserve = "kserve"
    both = "both"
    none = "none"


class Dtype(StrEnum):
    """Precision of a merged model."""

    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def export(
    run: RunArgument,
    model: Annotated[
        str | None, typer.Option("--model", help="M0, M1, ... or champion; by default the champion, else the newest.")
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option(
            "--directory",
            "-o",
            help="Where to; by default NAME-MODEL-export below this directory, with --merge NAME-MODEL-merged.",
        ),
    ] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Write a whole model, with the adapter added to the base model's weights.")
    ] = False,
    dtype: Annotated[
        Dtype | None, typer.Option("--dtype", help="With --merge: precision; by default the base model's.")
    ] = None,
    push: Annotated[
        str | None,
        typer.Option(
            "--push",
            metavar="OWNER/NAME",
            help="Then upload the folder to the Hugging Face Hub. One that is there already is sent as it is.",
        ),
    ] = None,
    public: Annotated[
        bool, typer.Option("--public/--private", help="With --push: whether a new repository is public.")
    ] = False,
    serve: Annotated[Serve, typer.Option("--serve", help="Manifests that serve base and all adapters.")] = Serve.both,
    base_model: Annotated[
        str | None,
        typer.Option(
            "--base-model", metavar="OWNER/NAME", help="Where the base model is on the hub, if the run took a copy."
        ),
    ] = None,
    base_licence: Annotated[
        str | None, typer.Option("--base-licence", help="The base model's licence, if the hub does not say it.")
    ] = None,
    licence: Annotated[
        list[str] | None, typer.Option("--licence", metavar="SOURCE=LICENCE", help="The licence of a data source.")
    ] = None,
    namespace: NamespaceOption = None,
    storage: StorageOption = None,
    endpoint: EndpointOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the directory if an export has written it.")] = False,
    output: Annotated[Output, typer.Option("--output", help="text, or one JSON document.")] = Output.text,
) -> None:
    """Write a model as a Hugging Face folder: adapter or merged model, tokenizer, model card, serving manifests."""
    require_libraries("export")
    from ..export.export import Wanted, exported
    from ..export.export import export as export_model
    from ..export.hub import REPOSITORY, require_repository
    from ..export.hub import push as push_folder
    from ..export.licences import UNKNOWN
    from ..results.choice import BASE, choose_model
    from ..results.weights import weights_of

    if dtype is not None and not merge:
        raise PermanentError("ExportInput", "--dtype: an adapter keeps its precision; it goes with --merge")
    if push is not None:
        require_repository(push)
    elif public:
        raise PermanentError("ExportInput", "--public: it goes with --push; this writes a folder here")
    if base_licence is not None:
        _require_licence(f"--base-licence {base_licence}", base_licence)
    licences = dict(_stated(each) for each in licence or [])
    results = read_results(run, namespace, storage, endpoint=endpoint)
    if model == BASE:
        raise PermanentError("ExportInput", "--model base: the base model is not the run's; name M0, M1, ...")
    chosen = choose_model(results, model, base=False)
    if base_model is not None and not REPOSITORY.fullmatch(base_model.partition("@")[0]):
        raise PermanentError("ExportInput", f"--base-model {base_model}: write OWNER/NAME or OWNER/NAME@REVISION")
    kinds = {Serve.both: ("vllm", "kserve"), Serve.none: ()}.get(serve, (serve.value,))
    with weights_of(results) as weights:
        wanted = Wanted(
            model=chosen.name,
            directory=directory or Path(f"{results.name}-{chosen.name}-{'merged' if merge else 'export'}"),
            merge=merge,
            dtype=dtype.value if dtype else None,
            force=force,
            base_model=base_model,
            base_licence=base_licence,
            data_licences=licences,
            serve=kinds,
            serving=partial(_serving, results, weights) if kinds else None,
        )
        # What the user was told to read, and may have corrected, is what is sent.
        earlier = exported(results, wanted) if push and not force else None
        if earlier is not None and UNKNOWN in earlier.licence and (licences or base_licence):
            words = (
                "is there with a licence that is not known: state it in its README.md, or write it anew with --force"
            )
            raise PermanentError("ExportInput", f"--push: {earlier.directory} {words}")
        done = earlier or export_model(weights, wanted)
    address = push_folder(done.directory, push, public=public) if push else None
    if output is Output.json:
        document = {"directory": str(done.directory), "model": chosen.name, "files": dict(done.files)}
        print(json.dumps(document | {"licence": done.licence, "notes": list(done.notes), "pushed": address}))
    else:
        _print(done, chosen.name, chosen.why, address)


def _stated(given: str) -> tuple[str, str]:
    source, equals, licence = given.rpartition("=")
    if not (equals and source and licence):
        raise PermanentError("ExportInput", f"--licence {given}: write SOURCE=LICENCE, such as seed.jsonl=cc-by-4.0")
    _require_licence(f"--licence {given}", licence)
    return source, licence


def _require_licence(option: str, licence: str) -> None:
    if not LICENCE.fullmatch(licence):
        raise PermanentError("ExportInput", f"{option}: write a name without spaces, such as cc-by-4.0 or llama3")


def _serving(results: Results, weights: Weights, facts: Facts) -> Serving:
    """How all models of the run are served. Their adapters have one rank: DPO trains on what SFT has made."""
    from evolution_jobs.contract.locations import Storage
    from evolution_jobs.engines.vllm_arguments import max_lora_rank, read_adapter

    from ..export.serving import Serving
    from ..results.choice import chat_settings

    sampling, spec = chat_settings(results).sampling, results.spec
    try:
        rank = max_lora_rank(read_adapter(weights.adapter(facts.model)).rank)
    except PermanentError as error:
        words = f"{str(error).partition(':')[0]}: --serve none writes no manifests"
        raise PermanentError(error.reason, words) from error
    return Serving(
        facts=facts,
        namespace=results.namespace,
        adapters={name: results.artifact(name).output for name in results.models},
        storage=spec.storage if spec else Storage(uri=results.store.uri),
        max_lora_rank=rank,
        length=sampling.max_prompt_tokens + sampling.max_new_tokens,
        vllm_image=VLLM_IMAGE,
        fetch_image=f"evolution-operator/operator:{version('evolution-operator')}",
        token_secret=spec.base_model.token_secret if spec else None,
        gpus=sampling.vllm.tensor_parallel,
    )


def _print(done: Exported, model: str, why: str, address: str | None) -> None:
    console = open_console()
    say(console, f"{done.directory}: {model}{f' ({why})' if why else ''}")
    for path, size in done.files.items():
        say(console, f"  {path:<32} {decimal(size):>10}")
    say(console, f"licence: {done.licence}")
    for note in done.notes:
        say(console, note, style="yellow")
    if address:
        say(console, f"pushed to {address}")
    else:
        say(
            console,
            "Read README.md and correct it before you share it; then: evolution export ... --push OWNER/NAME",
            style="dim",
        )
