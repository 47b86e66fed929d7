"""Names in prose exist: paths, modules, symbols and make targets in pages, docstrings and comments."""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = [ROOT / "jobs/evolution_jobs", ROOT / "operator/evolution_operator"]
PAGES = [
    *(
        ROOT / f"{name}.md"
        for name in ("README", "CONTRIBUTING", "CHANGELOG", "SECURITY", ".github/PULL_REQUEST_TEMPLATE")
    ),
    *sorted((ROOT / "docs").glob("*.md")),
]
MODULES = [path for folder in ("operator", "jobs", "hack", "bench") for path in sorted((ROOT / folder).rglob("*.py"))]
PROSE = {str(path.relative_to(ROOT)): path for path in [*PAGES, *MODULES]}

FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)
LABEL = re.compile(r"\[[^\]]*\]\(")
PATH = re.compile(r"(?<![\w./:@$<>-])((?:[\w.-]+/)+[\w.-]*\w|[\w-]+)\.(py|md|toml|sh)\b(?!/)")
FOLDER = re.compile(
    r"`((?:bench|charts|crds|docs|examples|hack|images|jobs|operator|requirements|tests)(?:/[\w.-]+)*)/?`"
)
MODULE = re.compile(r"(?<![\w./-])((?:evolution_jobs|evolution_operator|hack|bench|tests)(?:\.\w+)+)")
# `data` and `stages` are left out: fields of the resource and values of the chart begin like this.
SHORT = re.compile(
    r"(?<![\w./-])((?:contract|store|models|engines|training|attempt|preference|metrics|planner|controller)\.(?!json)[a-z_]+(?:\.\w+)*)"
)
STOP = re.compile(r"`([\w/]+\.py)`\s+`([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)?)`")
"""A stop of a walk through the code: a module and, after it, a function, class or method."""
SYMBOL = re.compile(r"`([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)(?:\(\))?`")
ELSEWHERE = {"myMetrics.py"}
"""Files of other projects that our pages and comments name."""
FOREIGN = {"sha256sum", "ReadOnlyMany", "ReadWriteMany", "ContainerCannotRun", "StartError"}
"""Words of other programs."""
VARIABLES = ("AWS_", "CREDENTIALS_", "MLFLOW_", "TRACKIO_", "WANDB_")
"""Prefixes of variables that are named after a Secret, or that a tracker's library reads."""


@pytest.mark.parametrize("path", PROSE.values(), ids=PROSE)
def test_every_path_that_is_named_exists(path: Path) -> None:
    text = prose(path)
    named = {f"{name}.{suffix}" for name, suffix in PATH.findall(text)} | set(FOLDER.findall(text))
    assert {name for name in named if not exists(name, path)} == set()


@pytest.mark.parametrize("path", PROSE.values(), ids=PROSE)
def test_every_module_and_symbol_of_ours_that_is_named_exists(path: Path) -> None:
    text = prose(path)
    named = set(MODULE.findall(text))
    if path.suffix == ".py":
        named |= set(SHORT.findall(text))
    assert {name for name in named if not resolves(name)} == set()


@pytest.mark.parametrize("path", PROSE.values(), ids=PROSE)
def test_every_name_in_backticks_is_one_that_the_code_uses(path: Path) -> None:
    known = words_of_the_code() | FOREIGN
    # prometheus_client ends a counter's name with _total.
    found = (name.removesuffix("_total") for name in SYMBOL.findall(prose(path)))
    named = {name for name in found if not name.startswith(VARIABLES)}
    assert {name for name in named if not set(name.split(".")) <= known} == set()


def test_every_stop_of_the_walks_is_in_its_module() -> None:
    stops = STOP.findall((ROOT / "docs/architecture.md").read_text())
    assert len(stops) > 30
    assert {f"{module} {name}" for module, name in stops if name not in definitions(module)} == set()


def test_what_the_page_says_is_in_a_module_is_there() -> None:
    said = re.findall(r"`(\w+)` in `([\w/]+\.py)`", (ROOT / "docs/architecture.md").read_text())
    assert len(said) > 5
    lost = {f"{name} in {module}" for name, module in said if name not in bound(module_path(module))}
    assert lost == set()


def test_every_make_target_that_code_names_exists() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {name for path in MODULES for name in re.findall(r"\bmake ([a-z0-9]+-[a-z0-9-]+)", prose(path))}
    assert named <= targets


@cache
def prose(path: Path) -> str:
    """A page without its blocks of code; docstrings and comments of a module."""
    text = path.read_text()
    if path.suffix == ".md":
        # The label of a link is prose; the target is a path.
        return LABEL.sub("(", FENCE.sub("", text))
    texts = [node.value.value for node in ast.walk(ast.parse(text)) if is_docstring(node)]
    texts += [
        each.string for each in tokenize.generate_tokens(io.StringIO(text).readline) if each.type == tokenize.COMMENT
    ]
    return "\n".join(texts)


def is_docstring(node: ast.AST) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def exists(name: str, path: Path) -> bool:
    bases = [ROOT, *PACKAGES, path.parent, path.parent.parent]
    return name in ELSEWHERE or any((base / name).exists() for base in bases)


def resolves(name: str) -> bool:
    """Whether a dotted name leads to a module, or to a name that a module binds."""
    parts = name.split(".")
    for base in (ROOT, *(package.parent for package in PACKAGES), *PACKAGES):
        for length in range(len(parts), 0, -1):
            place = base.joinpath(*parts[:length])
            module = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
            rest = parts[length:]
            if rest and module.exists() and rest[0] in bound(module):
                return True
            if not rest and (place.is_dir() or module.exists()):
                return True
    return False


def module_path(module: str) -> Path:
    """Where a module of one of our packages is."""
    [path] = [package / module for package in PACKAGES if (package / module).exists()]
    return path


def definitions(module: str) -> set[str]:
    """Functions and classes of a module of ours, and `Class.method`."""
    found: set[str] = set()
    for node in ast.parse(module_path(module).read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{each.name}" for each in node.body if isinstance(each, ast.FunctionDef)}
    return found


@cache
def bound(module: Path) -> set[str]:
    """Names that a module's code binds anywhere."""
    nodes = list(ast.walk(ast.parse(module.read_text())))
    named = {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.ClassDef)}
    return named | {node.id for node in nodes if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)}


@cache
def words_of_the_code() -> set[str]:
    """Every word of the code that is neither a docstring nor a comment, and of manifests, charts and scripts."""
    found: set[str] = set()
    for path in [*MODULES, *(ROOT / "tests").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            for field in ("id", "attr", "name", "arg", "module"):
                found |= set(words(getattr(node, field, None)))
            if isinstance(node, ast.Constant) and not getattr(node, "prose", False):
                found |= set(words(node.value))
            if is_docstring(node):
                node.value.prose = True  # type: ignore[attr-defined]
    others = [ROOT / "Makefile", ROOT / "pyproject.toml", *(ROOT / "images").rglob("Dockerfile")]
    others += [path for folder in ("crds", "charts", "examples") for path in (ROOT / folder).rglob("*.yaml")]
    return found.union(*(words(path.read_text()) for path in others))


def words(text: object) -> Iterator[str]:
    yield from re.findall(r"\w+", text) if isinstance(text, str) else ()
