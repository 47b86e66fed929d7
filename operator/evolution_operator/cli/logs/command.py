"""`evolution logs`: of a run on the cluster by its name, of one on this machine by its file."""

from __future__ import annotations

from pathlib import Path

from ..named import RUN_FILES
from .choice import Wanted


def print_logs(run: str, wanted: Wanted, namespace: str | None, storage: str | None, follow: bool) -> None:
    """Print the logs that are wanted of a run: a name on the cluster, or a run file.

    Raises PermanentError `LogsMissing`, `NoCluster`, `ClusterRefused`, `ClusterUnreachable`, and RunFileError.
    """
    if run.endswith(RUN_FILES):
        from ...local.load import local_run
        from .files import FileLogs, follow_file_logs, print_file_logs

        files = FileLogs(local_run(Path(run), storage))
        (follow_file_logs if follow else print_file_logs)(files, wanted)
    else:
        from .pods import PodLogs, follow_pod_logs, print_pod_logs

        pods = PodLogs(run, namespace)
        (follow_pod_logs if follow else print_pod_logs)(pods, wanted)
