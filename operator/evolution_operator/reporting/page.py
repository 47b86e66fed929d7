"""The report as one HTML file: no script, style, font or picture from elsewhere, and a policy that forbids any."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import stat
import tempfile
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from evolution_jobs.contract.errors import PermanentError
from evolution_jobs.printable import printable
from evolution_jobs.redaction import redacted
from markupsafe import Markup

from ..api.run_file import write_documents
from ..look import look_css
from ..results.results import Results
from . import figures, sections
from .advice import next_steps
from .browsers import MOST_ROWS, answer_rows, pack, pair_count, pair_rows
from .facts import Facts
from .gather import gather
from .plots import curves
from .signs import signs
from .words import count, happened, listed, signed, true_now

MARK = "evolution report"
"""Names this program in a report's head."""
GENERATOR = f'<meta name="generator" content="{MARK} '
"""By this in its head, a file is known to be a report."""
EXAMPLES = 3
"""Rows that are shown where the browsers cannot be: on paper and without JavaScript."""


def write_report(results: Results, path: Path) -> None:
    """Write the report of a run to `path`, or where it leads if it is a link. An earlier report there is replaced, as a whole.

    Raises PermanentError `ReportUnwritable` if the file cannot be written, or is there and is no report; and what the store
    raises if it does not answer.
    """
    # A rename would replace a link itself, not the file that it leads to.
    target = Path(os.path.realpath(path))
    _check(path, target)
    page = render(gather(results))
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", errors="replace", dir=target.parent, prefix=f".{target.name}.", delete=False
        ) as file:
            temporary = Path(file.name)
            file.write(page)
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(target)
    except OSError as error:
        if temporary is not None:
            temporary.unlink(missing_ok=True)
        raise _unwritable(f"{path}: {error.strerror}; choose another file") from error


def _check(path: Path, target: Path) -> None:
    """Raise if the target cannot be that of a report, before work is done for it."""
    if target.is_dir():
        raise _unwritable(f"{path} is a directory; name a file, such as {path / 'report.html'}")
    if not target.parent.is_dir():
        raise _unwritable(f"{target.parent} is no directory; make it, or choose another file")
    try:
        # A pipe must not be opened: that waits until somebody writes into it.
        if not stat.S_ISREG(target.stat().st_mode):
            raise _unwritable(f"{path} is no regular file; choose another file")
        with target.open("rb") as file:
            head = file.read(1 << 10)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _unwritable(f"{path}: {error.strerror}; choose another file") from error
    if head and GENERATOR.encode() not in head:
        raise _unwritable(f"{path} is there already and is no report; remove it, or choose another file")


def _unwritable(words: str) -> PermanentError:
    return PermanentError("ReportUnwritable", words)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def render(facts: Facts) -> str:
    """The whole page."""
    css, script = look_css() + _static("report.css"), _static("report.js")
    rows = figures.rows(facts)
    costs = sections.costs(facts)
    answers, pairs, prepare = answer_rows(facts), pair_rows(facts), facts.manifests.get("prepare")
    return (
        _environment()
        .get_template("report.html")
        .render(
            facts=facts,
            mark=MARK,
            version=version("evolution-operator"),
            policy=_policy(css, script),
            css=Markup(css),  # noqa: S704  # our own file
            script=Markup(script),  # noqa: S704  # our own file
            happened=happened(facts),
            true_now=true_now(facts, rows),
            next_steps=next_steps(facts),
            figures=[row for row in rows if row.first],
            more_figures=[row for row in rows if not row.first],
            set_figures=figures.by_set(facts),
            iterations=sorted({number for row in rows for number in row.values}),
            changes=facts.changes,
            champion=facts.status.champion if facts.status else None,
            notes=[(stage, note) for stage, each in facts.manifests.items() for note in each.notes],
            curves=curves(facts, rows),
            signs=signs(facts),
            answers=Markup(pack(answers)),  # noqa: S704  # base64
            contexts=max(map(len, facts.answers.values()), default=0),
            pairs=Markup(pack(pairs)),  # noqa: S704  # base64
            pair_count=pair_count(facts),
            pairs_shown=len(pairs["rows"]),
            most_rows=MOST_ROWS,
            examples=_examples(facts, answers, pairs),
            drops=sections.dropped(facts),
            sources=sections.sources(facts),
            prepare=prepare,
            leak_check=sections.leak_check(prepare) if prepare else [],
            chain=sections.chain(facts),
            lineage=sections.lineage(facts),
            costs=costs,
            total=sections.total(costs),
            environment=sections.environment(facts),
            spec=_spec(facts),
            manifests={
                stage: redacted(json.dumps(each.wire(), indent=2, ensure_ascii=False))
                for stage, each in facts.manifests.items()
            },
        )
    )


def _examples(facts: Facts, answers: dict[str, Any], pairs: dict[str, Any]) -> dict[str, Any]:
    """The first rows of each browser, for paper and for pages without JavaScript."""
    kept = [
        {**row, "turns": pairs["histories"][row["history"]]} for row in pairs["rows"][:EXAMPLES] if "reason" not in row
    ]
    return {"answers": answers["rows"][:EXAMPLES], "models": [*facts.answers], "pairs": kept}


def _spec(facts: Facts) -> str | None:
    """The run file, without the fields that it leaves out."""
    if facts.spec is None:
        return None
    document = {
        "apiVersion": "evolution.run/v1alpha1",
        "kind": "EvolutionRun",
        "metadata": {"namespace": facts.namespace, "name": facts.name},
        "spec": facts.spec.model_dump(mode="json", by_alias=True, exclude_unset=True),
    }
    return redacted(write_documents([document]))


def _policy(css: str, script: str) -> str:
    """The content security policy: this page's own style and script by digest, and nothing else."""
    style, code = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in (css, script))
    return f"default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{code}'; base-uri 'none'; form-action 'none'"


def _static(name: str) -> str:
    return (files(__package__) / "static" / name).read_text("utf-8")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__, "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # Whatever is shown may be text of a dialogue, and a page shows a control character as nothing at all.
        finalize=lambda value: value if isinstance(value, Markup) else printable(str(value), "\n\t"),
    )
    environment.filters |= {
        "count": count,
        "listed": listed,
        "signed": signed,
        "duration": _duration,
        "energy": _energy,
        "short": lambda digest: digest[:12],
    }
    return environment


def _duration(seconds: float) -> str:
    """`45 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    hours, minutes_left = divmod(minutes, 60)
    return f"{hours} h {minutes_left} min" if hours else f"{minutes} min {rest} s"


def _energy(joules: float) -> str:
    """`12.3 Wh`, `4.56 kWh`."""
    hours = joules / 3600
    return f"{hours / 1000:,.2f} kWh" if hours >= 1000 else f"{hours:.3g} Wh"
