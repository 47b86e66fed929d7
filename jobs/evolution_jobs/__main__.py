"""`python -m evolution_jobs <kind> --spec stage.json`: runs one stage, in a Job or by hand."""

from __future__ import annotations

import argparse
import logging
import os
import sys
from pathlib import Path
from typing import NoReturn

from pydantic import ValidationError

from .attempt.failures import failure_report, invalid_fields
from .attempt.phases import Phases
from .attempt.report import write_report
from .contract.credentials import tidy_environment
from .contract.errors import EXIT_PERMANENT, PermanentError
from .contract.settings import SETTINGS, gpus_of
from .contract.stage import StageSpec
from .contract.variables import STAGE_SPEC_VARIABLE
from .libraries import set_library_defaults
from .redaction import redact_output
from .runner import run_stage

SPEC_LIMIT = 16 << 20
"""Most bytes of a spec."""


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Print the message and exit with the code of a permanent error."""
        self.print_usage(sys.stderr)
        self.exit(EXIT_PERMANENT, f"{self.prog}: {message}\n")


def read_spec(kind: str, source: str | None) -> StageSpec:
    """The stage spec in a file, or on stdin for `-`.

    Raises PermanentError `SpecInvalid` with every faulty field.
    """
    named = source or os.environ.get(STAGE_SPEC_VARIABLE)
    if named is None:
        raise PermanentError("SpecInvalid", f"no stage spec: give --spec FILE, or set {STAGE_SPEC_VARIABLE}")
    try:
        with sys.stdin.buffer if named == "-" else Path(named).open("rb") as file:
            data = file.read(SPEC_LIMIT + 1)
    except OSError as error:
        raise PermanentError("SpecInvalid", f"stage spec {named}: {error.strerror}") from error
    if len(data) > SPEC_LIMIT:
        raise PermanentError("SpecInvalid", f"stage spec {named} is larger than {SPEC_LIMIT} bytes")
    try:
        spec = StageSpec.model_validate_json(data)
    except ValidationError as error:
        raise PermanentError("SpecInvalid", f"stage spec {named}: {invalid_fields(error)}") from error
    if spec.kind != kind:
        raise PermanentError("SpecInvalid", f"kind: {named} is a spec for {spec.kind}, not for {kind}")
    return spec


def main() -> int:
    """Run the stage that the command line names. The exit code says whether a retry may help."""
    set_library_defaults()
    tidy_environment()
    redact_output()
    logging.basicConfig(stream=sys.stderr, level=logging.WARNING, format="%(levelname)s: %(message)s")
    logging.getLogger("evolution_jobs").setLevel(logging.INFO)
    parser = _Parser(prog="python -m evolution_jobs", description=__doc__)
    parser.add_argument("kind", choices=sorted(SETTINGS), help="the stage to run")
    parser.add_argument(
        "--spec", metavar="FILE", help=f"the stage spec, - for stdin; else the file in ${STAGE_SPEC_VARIABLE}"
    )
    arguments = parser.parse_args()
    try:
        spec = read_spec(arguments.kind, arguments.spec)
    except Exception as error:  # noqa: BLE001 -- the process's edge: whatever it was, it is reported
        report, code = failure_report(None, error)
        write_report(report)
        return code
    if spec.ranks.processes == 1:
        # A stage sees the GPUs that it uses. If it saw more, the trainer would split every batch among all of them.
        os.environ.setdefault("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(gpus_of(spec.settings)))))
    return run_stage(spec, phases=Phases(Path(arguments.spec or os.environ[STAGE_SPEC_VARIABLE])))


if __name__ == "__main__":
    sys.exit(main())
