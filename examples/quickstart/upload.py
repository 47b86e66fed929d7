"""Upload files to the bucket of the chart's MinIO, through a port-forward: the quickstart's data, or your own.

    python examples/quickstart/upload.py [--namespace evolution] [--to quickstart] [FILE ...]
"""

from __future__ import annotations

import argparse
import base64
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3
from botocore.exceptions import BotoCoreError, ClientError

DATA = Path(__file__).parent / "data"


@contextmanager
def forwarded(namespace: str, service: str) -> Iterator[str]:
    """The service's URL on this machine."""
    command = ["kubectl", f"--namespace={namespace}", "port-forward", f"service/{service}", ":9000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        found = re.search(r"127\.0\.0\.1:(\d+)", process.stdout.readline())
        try:
            if found is None:
                sys.exit(f"kubectl cannot forward to service {service} in namespace {namespace}: is MinIO installed there?")
            yield f"http://127.0.0.1:{found[1]}"
        finally:
            process.terminate()


def credentials(namespace: str, secret: str) -> dict[str, str]:
    """The Secret's values, under boto3's argument names."""
    command = ["kubectl", f"--namespace={namespace}", "get", "secret", secret, "--output=json"]
    found = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    if found.returncode:
        sys.exit(f"kubectl cannot read Secret {secret} in namespace {namespace}")
    return {name.lower(): base64.b64decode(value).decode() for name, value in json.loads(found.stdout)["data"].items()}


def main() -> None:
    """Upload the files and print the URI of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--namespace", default="evolution", help="the chart's namespace")
    parser.add_argument("--service", default="evo-evolution-operator-minio")
    parser.add_argument("--secret", default="evolution-storage")
    parser.add_argument("--bucket", default="evolution")
    parser.add_argument("--to", default="quickstart", help="prefix in the bucket")
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE", help="default: the quickstart's data")
    arguments = parser.parse_args()
    with forwarded(arguments.namespace, arguments.service) as url:
        keys = credentials(arguments.namespace, arguments.secret)
        s3 = boto3.client("s3", endpoint_url=url, region_name="us-east-1", **keys)
        for file in arguments.files or sorted(DATA.glob("*.jsonl")):
            key = f"{arguments.to}/{file.name}"
            try:
                s3.upload_file(str(file), arguments.bucket, key)
            except (OSError, BotoCoreError, ClientError, boto3.exceptions.S3UploadFailedError) as error:
                sys.exit(f"{file}: {error}")
            print(f"s3://{arguments.bucket}/{key}")


if __name__ == "__main__":
    main()
