"""Reads a run file: one YAML document, parsed as kubectl parses it. Writes documents for kubectl."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

SIZE_LIMIT = 1 << 20
"""Bytes of a run file; the API server takes little more."""
VALUE_LIMIT = 10_000
"""Values in a run file once its aliases are followed: some lines of nested aliases stand for billions."""
DIGITS_LIMIT = 100
"""Digits of a whole number: Python refuses to read thousands, and no field takes more than 64 bits."""
INTEGER = "tag:yaml.org,2002:int"
TEXT = "tag:yaml.org,2002:str"
NAME = re.compile(r"[A-Za-z_][\w-]*")


Written = Mapping[str, str]
"""Scalars that YAML reads as something other than text, as the file has them, by path: `72225e2` is a number."""


@dataclass(frozen=True)
class Fault:
    """One thing that is wrong with a run."""

    path: str
    """Where, as a user writes it: `spec.data.test[0].mapping`. Empty for the file as a whole."""
    message: str
    """What is wrong and what to do."""

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


def at(path: str, part: str | int) -> str:
    """The path of a field or item below a path."""
    if isinstance(part, int):
        return f"{path}[{part}]"
    if not NAME.fullmatch(part):
        return f'{path}["{part}"]'
    return f"{path}.{part}" if path else part


def read_document(path: Path) -> tuple[Any, list[Fault], Written]:
    """The file's document, what is wrong with the file, and its scalars as written.

    The document is None if the file cannot be parsed.
    """
    written: dict[str, str] = {}
    return *_read(path, written), written


def _read(path: Path, written: dict[str, str]) -> tuple[Any, list[Fault]]:
    try:
        with path.open("rb") as file:
            data = file.read(SIZE_LIMIT + 1)
    except OSError as error:
        return None, [Fault("", f"cannot be read: {error.strerror}")]
    if len(data) > SIZE_LIMIT:
        return None, [
            Fault("", f"is larger than {SIZE_LIMIT >> 20} MiB: this is neither an EvolutionRun nor an Experiment")
        ]
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        return None, [Fault("", f"line {line} is not UTF-8: save the file in that encoding")]
    try:
        return _parse(text, written)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        return None, [Fault("", f"{where}not YAML: {error.problem or error.context}")]
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        return None, [Fault("", f"line {line}: not YAML: character U+{ord(text[error.position]):04X} is not allowed")]
    except ValueError as error:
        return None, [Fault("", f"not YAML: {error}")]
    except RecursionError:
        return None, [Fault("", "is nested too deeply: this is neither an EvolutionRun nor an Experiment")]


class _Loader(yaml.SafeLoader):
    """Scalars as kubectl reads them: `1e-4` is a number and a date is text, unlike in PyYAML's YAML 1.1."""

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in ("timestamp", "value")]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _parse(text: str, written: dict[str, str]) -> tuple[Any, list[Fault]]:
    loader = _Loader(text)
    try:
        nodes: list[yaml.Node] = []
        while loader.check_node():
            node = loader.get_node()
            if node is not None and not (isinstance(node, yaml.ScalarNode) and node.value == ""):
                nodes.append(node)
        if not nodes:
            return None, [Fault("", "is empty: write one EvolutionRun or Experiment")]
        if len(nodes) > 1:
            lines = ", ".join(str(node.start_mark.line + 1) for node in nodes)
            message = f"holds {len(nodes)} documents (at lines {lines}): keep one EvolutionRun or Experiment"
            return None, [Fault("", message)]
        found = list(_node_faults(nodes[0], written))
        if any(not fault.path for fault in found):
            return None, found
        return loader.construct_document(nodes[0]), found
    finally:
        loader.dispose()


def _node_faults(root: yaml.Node, written: dict[str, str]) -> Iterator[Fault]:
    """Keys that occur twice or are not text, in the order of the file: YAML loaders drop one of them silently.

    Adds the scalars that are not text to `written`.
    """
    pending: list[tuple[yaml.Node, str]] = [(root, "")]
    values = 0
    while pending:
        node, path = pending.pop()
        values += 1
        if values > VALUE_LIMIT:
            yield Fault("", f"holds more than {VALUE_LIMIT} values once its aliases are followed")
            return
        below: list[tuple[yaml.Node, str]] = []
        if isinstance(node, yaml.ScalarNode) and node.tag != TEXT:
            written[path] = node.value
        if isinstance(node, yaml.ScalarNode) and node.tag == INTEGER and len(node.value) > DIGITS_LIMIT:
            yield Fault(path, f"line {node.start_mark.line + 1}: the number has too many digits")
            node.value = "1"  # so that the rest can be checked
        if isinstance(node, yaml.SequenceNode):
            below = [(item, at(path, index)) for index, item in enumerate(node.value)]
        elif isinstance(node, yaml.MappingNode):
            lines: dict[str, int] = {}
            for key, value in node.value:
                line = key.start_mark.line + 1
                if not isinstance(key, yaml.ScalarNode):
                    yield Fault("", f"line {line}: a key must be text, not a list or a mapping")
                    continue
                here = at(path, key.value)
                if key.tag.rpartition(":")[2] not in ("str", "merge"):
                    yield Fault(here, f"the key on line {line} is not text: write it in quotes")
                    key.tag = TEXT  # so that the value is checked under the key as written
                if key.value in lines:
                    yield Fault(here, f"is written twice, on lines {lines[key.value]} and {line}: remove one")
                lines[key.value] = line
                below.append((value, here))
        pending.extend(reversed(below))


class _Dumper(yaml.SafeDumper):
    """Text in quotes unless every reader of YAML 1.1 and 1.2 takes it for text, and no aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_./:-]+")
"""Text that needs no quotes, if it is no word such as `yes` or `null`, which PyYAML puts in quotes itself."""

_Dumper.add_representer(
    str,
    lambda dumper, text: dumper.represent_scalar(TEXT, text, style=None if PLAIN.fullmatch(text) else '"'),
)


def write_documents(documents: Sequence[Mapping[str, Any]]) -> str:
    """The documents as YAML that kubectl and `evolution` read as they are, separated by `---`."""
    return yaml.dump_all(documents, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
