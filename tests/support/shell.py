"""A user's shell that runs the commands of the pages as they are written."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.pages import SKIPPED_COMMANDS, WALKED, Command, blocks, is_printed

WATCHES = "--watch"
"""In a command that the user ends."""


class Shell:
    """One bash, so that a command sees what earlier ones exported. Processes that it started end with it."""

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self._directory = directory
        self._process = subprocess.Popen(
            ["bash", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=directory,
            env=dict(environment),
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.killpg(self._process.pid, signal.SIGTERM)
        self._process.communicate()

    def walk(
        self,
        page: str,
        section: str,
        block: int | None = None,
        watched: Callable[[], object] | None = None,
        mask: Callable[[str], str] = str,
    ) -> str:
        """Run the commands of a page's section, or of one of its console blocks. Returns their output.

        Every line that the page shows must be printed. `mask` removes from both what may differ.
        A command that watches is ended once `watched` has returned.
        """
        assert (page, section) in WALKED, (
            f"tests/support/pages.py does not say that {section!r} of docs/{page} is walked"
        )
        output = []
        for command in _commands(page, section, block):
            if command.text.startswith(tuple(SKIPPED_COMMANDS)):
                continue
            if WATCHES in command.text:
                assert watched is not None, f"{command.text}: no test would end it"
                output.append(self._watch(command.text, watched))
            else:
                output.append(self.run(command.text))
            lines = output[-1].splitlines()
            missing = [line for line in command.output if not is_printed(line, lines, mask)]
            assert not missing, f"docs/{page}: `{command.text}` printed\n{output[-1]}\nwithout\n{missing}"
        return "".join(output)

    def run(self, command: str) -> str:
        """Run one command, which must succeed. Returns its output."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        mark, started = f"ended-{uuid.uuid4().hex}", time.monotonic()
        # Braces keep its exports. With a standard input, it would read the next commands.
        self._process.stdin.write(f"{{ {command}\n}} </dev/null\nprintf '\\n{mark} %d\\n' $?\n")
        self._process.stdin.flush()
        lines: list[str] = []
        while not (lines and lines[-1].startswith(mark)):
            line = self._process.stdout.readline()
            assert line, f"the shell ended at `{command}`:\n{''.join(lines)}"
            lines.append(line)
        output = "".join(lines[:-1]).removesuffix("\n")
        print(f"$ {command}    # {time.monotonic() - started:.1f} s\n{output}", flush=True)
        status = int(lines[-1].removeprefix(mark))
        assert status == 0, f"`{command}` ended with status {status}:\n{output}"
        return output

    def _watch(self, command: str, watched: Callable[[], object]) -> str:
        self.run(f"(exec {command}\n) & watch=$!")
        watched()
        return self.run("kill $watch; wait $watch || true")


def _commands(page: str, section: str, block: int | None) -> list[Command]:
    found = blocks(page, section)
    return list(itertools.chain.from_iterable(found)) if block is None else found[block]
