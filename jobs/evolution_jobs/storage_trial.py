"""Try a storage from where this process runs, and print what it did as one line of JSON.

    python -m evolution_jobs.storage_trial --storage '{"uri": "s3://bucket/runs"}'

`evolution doctor --pods` runs it in a Pod, with the image, the credentials and the network of a stage.
"""

from __future__ import annotations

import argparse
import sys

from pydantic import ValidationError

from .attempt.failures import invalid_fields
from .contract.credentials import tidy_environment
from .contract.errors import EXIT_PERMANENT, StageError
from .contract.locations import Storage
from .redaction import redact_output
from .store.open import open_store
from .store.trial import try_store


def main() -> int:
    """Print the trial. The exit code says only whether there was one."""
    tidy_environment()
    redact_output()
    parser = argparse.ArgumentParser(prog="python -m evolution_jobs.storage_trial", description=__doc__)
    parser.add_argument("--storage", required=True, metavar="JSON", help="the run's spec.storage")
    try:
        storage = Storage.model_validate_json(parser.parse_args().storage)
        sys.stdout.write(try_store(open_store(storage)).model_dump_json(by_alias=True) + "\n")
    except ValidationError as error:
        sys.stderr.write(f"SpecInvalid: --storage: {invalid_fields(error)}\n")
        return EXIT_PERMANENT
    except StageError as error:
        sys.stderr.write(f"{error.reason}: {error}\n")
        return EXIT_PERMANENT
    return 0


if __name__ == "__main__":
    sys.exit(main())
