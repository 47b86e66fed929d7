"""Compare uploading to and downloading from S3 with the aws CLI, on a MinIO server of this machine.

    python -m bench.transfer

Two lines of JSON, `upload` and `download`, in MiB/s of one file of 1 GiB with random content. Ours is what a stage does:
an upload is the file's SHA-256 and then `put_file`, a download is `get_file`, which compares the SHA-256 of the copy.
The peer is `aws s3 cp` with its defaults and no progress line. Each downloads what it has uploaded.

Each side is a command of its own. The time of the same command with an empty file is subtracted, so that neither start
nor imports count: their medians are `start`. The two take turns, and the one that begins changes each round. Files and
MinIO's data are in the same temporary directory (TMPDIR), and what was written is flushed to the disk between turns.
`processor` is the command's processor time (MinIO's is not in it), and `memory` its peak in MiB, start included.

The CLI is installed into a virtual environment that is deleted afterwards: it pins a botocore of its own, which must not
decide the version that the stages run with. Needs a package index, 5 GiB of disk and, to build MinIO the first time, Go.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Protocol

from bench.figures import figure
from hack.cluster.binaries import program
from tests.support.storage.servers import ACCESS_KEY, SECRET_KEY, find_minio, make_bucket, minio_server

GOAL = 1.0
"""MiB/s of ours over the CLI's, at least."""
CLI = "awscli==1.46.3"
BUCKET = "bench"
MEBIBYTE = 1 << 20
STARTS = 3
"""Turns with an empty file."""
DIRECTIONS = ("upload", "download")
OURS = """
import sys
from pathlib import Path
from evolution_jobs.contract.locations import Storage
from evolution_jobs.store.base import file_sha256
from evolution_jobs.store.open import open_store
direction, uri, endpoint, location, file, digest = sys.argv[1:]
store = open_store(Storage(uri=uri, endpoint=endpoint))
if direction == "upload":
    assert file_sha256(Path(file)) == digest
    store.put_file(Path(file), location)
else:
    store.get_file(location, Path(file), digest)
"""


@dataclass(frozen=True)
class Payload:
    """A file to upload, and where its copy goes."""

    name: str
    file: Path
    copy: Path
    digest: str

    @classmethod
    def of(cls, directory: Path, name: str, mebibytes: int) -> Payload:
        """A new file with random content."""
        file, digest = directory / name, hashlib.sha256()
        with file.open("wb") as stream:
            for _ in range(mebibytes):
                block = os.urandom(MEBIBYTE)
                digest.update(block)
                stream.write(block)
        return cls(name, file, directory / f"{name}.copy", digest.hexdigest())

    def local(self, direction: str) -> Path:
        """The file that is read or written."""
        return self.file if direction == "upload" else self.copy


class Side(Protocol):
    """One of the two that are compared."""

    def command(self, direction: str, payload: Payload) -> list[str]:
        """The command that moves the payload."""
        ...


class Ours:
    """The store of this project."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint

    def command(self, direction: str, payload: Payload) -> list[str]:
        """The command that moves the payload."""
        arguments = [f"s3://{BUCKET}/ours", self._endpoint, payload.name, str(payload.local(direction)), payload.digest]
        return [sys.executable, "-c", OURS, direction, *arguments]


class Cli:
    """The aws CLI."""

    def __init__(self, endpoint: str, program: Path) -> None:
        self._endpoint = endpoint
        self._program = program

    def command(self, direction: str, payload: Payload) -> list[str]:
        """The command that moves the payload."""
        ends = [str(payload.local(direction)), f"s3://{BUCKET}/cli/{payload.name}"]
        ends = ends if direction == "upload" else ends[::-1]
        return [str(self._program), "s3", "cp", "--only-show-errors", "--endpoint-url", self._endpoint, *ends]


@dataclass(frozen=True)
class Measured:
    """One command."""

    seconds: float
    processor: float
    memory: float
    """Peak, in MiB."""


def measured(command: list[str]) -> Measured:
    """Run it with the server's credentials and no configuration of the user's."""
    settings = {"AWS_CONFIG_FILE": os.devnull, "AWS_SHARED_CREDENTIALS_FILE": os.devnull}
    keys = {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": SECRET_KEY, "AWS_DEFAULT_REGION": "us-east-1"}
    own = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    os.sync()
    started = perf_counter()
    process = subprocess.Popen(command, env={**own, **settings, **keys})
    _, status, used = os.wait4(process.pid, 0)
    seconds = perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return Measured(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024)


def installed_cli(place: Path) -> Path:
    """The pinned CLI in a new virtual environment."""
    subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
    subprocess.run([str(place / "bin/python"), "-m", "pip", "install", "--quiet", CLI], check=True)
    return place / "bin/aws"


def moved(sides: dict[str, Side], payload: Payload, rounds: int) -> dict[tuple[str, str], list[Measured]]:
    """All rounds by side and direction; the copy is compared with the file after each download."""
    found: dict[tuple[str, str], list[Measured]] = {(name, what): [] for name in sides for what in DIRECTIONS}
    for number in range(rounds):
        for direction in DIRECTIONS:
            for name in list(sides) if number % 2 == 0 else list(sides)[::-1]:
                found[name, direction].append(measured(sides[name].command(direction, payload)))
                if direction == "download":
                    with payload.copy.open("rb") as copy:
                        assert hashlib.file_digest(copy, "sha256").hexdigest() == payload.digest
                    payload.copy.unlink()
                print(f"{payload.name} {direction} {name}: {found[name, direction][-1]}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    """Compare both directions."""
    parser = argparse.ArgumentParser(prog="python -m bench.transfer", description=__doc__)
    parser.add_argument("--mebibytes", type=int, default=1024)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--aws", type=Path, help="an aws CLI that is installed; else one is")
    given = parser.parse_args()
    server = find_minio() or str(program("minio"))
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        cli = given.aws or installed_cli(place / "cli")
        payload, empty = Payload.of(place, "payload", given.mebibytes), Payload.of(place, "empty", 0)
        with minio_server(server, place / "data") as endpoint:
            make_bucket(endpoint, BUCKET)
            sides: dict[str, Side] = {"ours": Ours(endpoint), "cli": Cli(endpoint, cli)}
            starts = moved(sides, empty, STARTS)
            runs = moved(sides, payload, given.rounds)
    for direction in DIRECTIONS:

        def start(side: str, what: str, direction: str = direction) -> float:
            return statistics.median(getattr(run, what) for run in starts[side, direction])

        def rates(side: str, what: str, direction: str = direction) -> Sequence[float]:
            nothing = start(side, what, direction)
            return [given.mebibytes / (getattr(run, what) - nothing) for run in runs[side, direction]]

        def medians(what: str, direction: str = direction) -> dict[str, float]:
            return {
                side: round(statistics.median(getattr(r, what) for r in runs[side, direction]), 2) for side in sides
            }

        by_processor = statistics.median(
            own / other for own, other in zip(rates("ours", "processor"), rates("cli", "processor"), strict=True)
        )
        figure(
            direction,
            rates("ours", "seconds"),
            rates("cli", "seconds"),
            "MiB/s",
            GOAL,
            ratio_by_processor_time=round(by_processor, 3),
            processor=medians("processor"),
            start={side: round(start(side, "seconds"), 2) for side in sides},
            memory={side: round(max(run.memory for run in runs[side, direction])) for side in sides},
        )


if __name__ == "__main__":
    main()
