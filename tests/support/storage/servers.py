"""Storage servers for tests: moto's in threads, and a real MinIO if its program is found."""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
from botocore.config import Config
from evolution_jobs.contract.locations import Storage
from moto.server import ThreadedMotoServer

ACCESS_KEY = "test-access-key"
SECRET_KEY = "test-secret-key"
START_SECONDS = 60


def find_minio() -> str | None:
    """The MinIO program that EVOLUTION_MINIO names, on PATH, or among the cluster's cached programs."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "evolution-operator" / "bin"
    cached = sorted(str(path) for path in cache.glob("**/minio") if os.access(path, os.X_OK) and path.is_file())
    return os.environ.get("EVOLUTION_MINIO") or shutil.which("minio") or (cached[-1] if cached else None)


@contextmanager
def moto_server() -> Iterator[str]:
    """Endpoint of moto's server. It checks no credentials, and its conditional puts are not atomic."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield "http://{}:{}".format(*server.get_host_and_port())
    finally:
        server.stop()


@contextmanager
def minio_server(
    program: str, directory: Path, wrapper: tuple[str, ...] = (), port: int | None = None
) -> Iterator[str]:
    """Endpoint of a MinIO that stores in `directory`. `wrapper` are words before its command line."""
    port = port or free_port()
    command = [*wrapper, program, "server", str(directory), "--address", f"127.0.0.1:{port}", "--quiet"]
    environment = {**os.environ, "MINIO_ROOT_USER": ACCESS_KEY, "MINIO_ROOT_PASSWORD": SECRET_KEY, "MINIO_CI_CD": "1"}
    with (directory.parent / f"minio-{port}.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            endpoint = f"http://127.0.0.1:{port}"
            wait_until_ready(f"{endpoint}/minio/health/cluster", process, Path(log.name))
            yield endpoint
        finally:
            process.terminate()
            process.wait(30)


def make_bucket(endpoint: str, name: str) -> None:
    """Create a bucket as the server's administrator."""
    client = boto3.client(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=ACCESS_KEY,
        aws_secret_access_key=SECRET_KEY,
        config=Config(s3={"addressing_style": "path"}),
    )
    client.create_bucket(Bucket=name)


def s3_storage(endpoint: str) -> Storage:
    """A new bucket, and a prefix in it."""
    bucket = f"bucket-{secrets.token_hex(6)}"
    make_bucket(endpoint, bucket)
    return Storage(uri=f"s3://{bucket}/some/prefix", endpoint=endpoint)


def free_port() -> int:
    """A port on loopback on which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    """Returns once the address answers. Raises RuntimeError if the process ends before, or takes too long."""
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            urllib.request.urlopen(url, timeout=5)
            return
        except (urllib.error.URLError, OSError):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"{process.args} did not start: {log.read_text()}") from None
            time.sleep(0.05)
