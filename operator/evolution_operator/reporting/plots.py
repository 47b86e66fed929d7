"""Curves as static SVG, drawn by Vega-Lite. Their colours are the page's, so they follow light and dark."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import vl_convert

from ..results.curves import points_of
from .facts import Facts
from .figures import Row

Series = Mapping[str, Sequence[tuple[float, float]]]
"""Name of a line to its points."""

WATCHED = (
    *("distinct2", "perplexity", "bleu2_ref", "length_words", "stock_phrase_rate"),
    *("kl_m0", "embedding_diversity", "pair_similarity", "heldout_margin", "heldout_accuracy"),
    *("safety_safe_rate", "judge_vs_human", "judge_vs_previous"),
)
"""Figures with a curve, besides the champion's metric."""

COLOURS = [f"var(--series-{number})" for number in range(1, 7)]
SIZE = {"width": 300, "height": 150}
CONFIG = {
    "background": None,
    "font": "inherit",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--quiet)",
        "titleColor": "var(--quiet)",
        "gridColor": "var(--line)",
        "domainColor": "var(--edge)",
        "tickColor": "var(--edge)",
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    },
    "legend": {
        "labelColor": "var(--ink)",
        "labelFontSize": 12,
        "title": None,
        "orient": "top",
        "symbolType": "stroke",
        "symbolStrokeWidth": 3,
    },
}
_OPENING = re.compile(r"^<svg [^>]*viewBox=\"([^\"]*)\"[^>]*>")


@dataclass(frozen=True)
class Plot:
    """A curve, and the table of what it shows."""

    title: str
    note: str
    svg: str
    """Without a size of its own, and hidden from screen readers: the table says the same."""
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


def curves(facts: Facts, figures: Sequence[Row]) -> list[Plot]:
    """Figures by model, then loss and margin by step."""
    chosen = facts.spec.evaluation.champion_metric if facts.spec else None
    names = dict.fromkeys([*([chosen] if chosen else []), *WATCHED])
    by_name = {row.name: row for row in figures if row.values}
    found = [by_model(by_name[name]) for name in names if name in by_name]
    return [*found, *_training(facts)]


def _training(facts: Facts) -> list[Plot]:
    tuned = facts.manifests.get("sft")
    rounds = [each for each in facts.manifests.values() if each.kind == "dpo"]
    given: list[tuple[str, str, dict[str, Any]]] = []
    if tuned is not None:
        losses = {"training": tuned.details.get("curve"), "validation": tuned.details.get("validation")}
        given.append(("Loss of SFT", "nats a token, by step", losses))
    for title, note, name in (
        ("Loss of DPO", "by step", "curve"),
        ("Reward margin in training", "chosen less rejected, by step", "margins"),
    ):
        given.append((title, note, {f"round {each.iteration}": each.details.get(name) for each in rounds}))
    plots = []
    for title, note, lines in given:
        series = {name: [*points_of(curve)] for name, curve in lines.items()}
        if any(series.values()):
            plots.append(by_step(title, note, {name: points for name, points in series.items() if points}))
    return plots


def by_model(row: Row) -> Plot:
    """A figure of every model with its interval, beside that of the human answers."""
    points = [
        {"model": f"M{number}", "value": each.value}
        | ({"low": each.interval[0], "high": each.interval[1]} if each.interval else {})
        for number, each in row.values.items()
    ]
    x = {"field": "model", "type": "ordinal", "sort": None, "title": None, "axis": {"labelAngle": 0}}
    y = {"type": "quantitative", "title": None, "scale": {"zero": False, "padding": 10}, "axis": {"tickCount": 5}}
    line = {
        "type": "line",
        "color": COLOURS[0],
        "strokeWidth": 2,
        "point": {"color": COLOURS[0], "size": 70, "filled": True},
    }
    layers: list[dict[str, Any]] = [
        {"data": {"values": points}, "mark": line, "encoding": {"x": x, "y": y | {"field": "value"}}},
    ]
    intervals = [point for point in points if "low" in point]
    if intervals:
        encoding = {"x": x, "y": y | {"field": "low"}, "y2": {"field": "high"}}
        mark = {"type": "rule", "color": COLOURS[0], "strokeWidth": 6, "opacity": 0.3, "strokeCap": "round"}
        layers.insert(0, {"data": {"values": intervals}, "mark": mark, "encoding": encoding})
    if row.human is not None:
        mark = {"type": "rule", "color": "var(--quiet)", "strokeDash": [4, 4], "strokeWidth": 1.5}
        layers.insert(
            0, {"data": {"values": [{"human": row.human}]}, "mark": mark, "encoding": {"y": y | {"field": "human"}}}
        )
    better = {"higher": "higher is better", "lower": "lower is better", "neither": ""}[row.kind.better]
    notes = [
        better,
        "bars: 95 % interval" if intervals else "",
        "dashed: human answers" if row.human is not None else "",
    ]
    digits = row.digits
    table = [
        [
            f"M{number}",
            f"{each.value:z.{digits}f}",
            f"{each.interval[0]:z.{digits}f} to {each.interval[1]:z.{digits}f}" if each.interval else "not known",
        ]
        for number, each in row.values.items()
    ]
    if row.human is not None:
        table.append(["human answers", f"{row.human:z.{digits}f}", ""])
    note = "; ".join(filter(None, notes))
    return Plot(row.kind.label, note, draw({"layer": layers}), ["model", "value", "95 % interval"], table)


def by_step(title: str, note: str, series: Series) -> Plot:
    """Lines over the steps of training."""
    points = [{"line": name, "step": x, "value": y} for name, line in series.items() for x, y in line]
    encoding: dict[str, Any] = {
        "x": {
            "field": "step",
            "type": "quantitative",
            "title": "step",
            "axis": {"values": _steps(points), "format": "d", "grid": False},
        },
        "y": {
            "field": "value",
            "type": "quantitative",
            "title": None,
            "scale": {"zero": False},
            "axis": {"tickCount": 5},
        },
        "color": {"field": "line", "type": "nominal", "sort": None, "scale": {"domain": [*series], "range": COLOURS}},
        # Lines are told apart without colour, too.
        "strokeDash": {"field": "line", "type": "nominal", "sort": None, "scale": {"domain": [*series]}},
    }
    mark = {"type": "line", "strokeWidth": 2, "point": len(points) <= 20 * len(series) and {"size": 25, "filled": True}}
    svg = draw({"data": {"values": points}, "mark": mark, "encoding": encoding})
    table = [[name, f"{x:g}", f"{y:.4f}"] for name, line in series.items() for x, y in line]
    return Plot(title, note, svg, ["line", "step", "value"], table)


def _steps(points: Sequence[Mapping[str, Any]]) -> list[int]:
    """At most six whole steps for the axis."""
    first, last = (int(pick(point["step"] for point in points)) for pick in (min, max))
    return [*range(first, last + 1, max(1, -(-(last - first) // 5)))]


def draw(spec: Mapping[str, Any]) -> str:
    """A Vega-Lite plot as SVG. Nothing is fetched: all data are in `spec`."""
    svg = vl_convert.vegalite_to_svg({**spec, **SIZE, "config": CONFIG}, vl_version="6.4", allowed_base_urls=[])
    return _OPENING.sub(r'<svg viewBox="\1" aria-hidden="true" focusable="false">', svg, count=1)
