"""Background processes. A record on disk lets any later command stop them."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from hack.cluster import ClusterError

# PR_SET_PDEATHSIG (prctl(2)) signals the child when the thread that started it ends, not the process.
# So one thread that lives as long as the interpreter starts all of them.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="starter")


class Process:
    """One daemon: its record ``<directory>/<name>.process`` and its log ``<directory>/<name>.log``.

    Args:
        name: its name in messages and files.
        directory: an existing folder for record and log.
        tied: end it with this interpreter, however that ends. Otherwise it runs until `stop`.
    """

    def __init__(self, name: str, directory: Path, *, tied: bool) -> None:
        self.name = name
        self.log = directory / f"{name}.log"
        self._record = directory / f"{name}.process"
        self._tied = tied
        self._child: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """Its process id while it runs, else None. A reused process id is not taken for it."""
        try:
            record = json.loads(self._record.read_text())
        except FileNotFoundError:
            return None
        pid = int(record["pid"])
        return pid if _birth(pid) == record["birth"] else None

    def start(self, argv: Sequence[str | Path], environment: Mapping[str, str]) -> None:
        """Start it in its own session, unless it already runs. Its output goes to the log.

        Raises:
            ClusterError: the program could not be executed.
        """
        if self.pid is not None:
            return
        if self._child is not None:
            self._child.wait()
        command = [str(word) for word in argv]
        tie = ["setpriv", "--pdeathsig", "KILL", "--"] if self._tied else []
        with self.log.open("ab") as log:
            try:
                self._child = _starter.submit(
                    subprocess.Popen,
                    [*tie, *command],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=dict(environment),
                    start_new_session=True,
                ).result()
            except OSError as error:
                raise ClusterError(f"{self.name} did not start: {error}") from error
        record = {"pid": self._child.pid, "birth": _birth(self._child.pid)}
        part = self._record.with_suffix(".part")
        part.write_text(json.dumps(record, indent=1))
        part.replace(self._record)

    def stop(self, grace: float = 10.0) -> None:
        """Send SIGTERM, and SIGKILL after ``grace`` seconds. Does nothing if it has ended."""
        pid = self.pid
        if pid is not None:
            handle = os.pidfd_open(pid)
            try:
                signal.pidfd_send_signal(handle, signal.SIGTERM)
                if not select.select([handle], [], [], grace)[0]:
                    signal.pidfd_send_signal(handle, signal.SIGKILL)
                    select.select([handle], [], [])
            except ProcessLookupError:
                pass
            finally:
                os.close(handle)
        if self._child is not None:
            self._child.wait()
            self._child = None

    def tail(self, lines: int = 15) -> str:
        """The last lines of its log."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


def wait_until(
    probe: Callable[[], bool],
    what: str,
    needs: Iterable[Process] = (),
    timeout: float = 60.0,
) -> None:
    """Call ``probe`` until it returns True.

    Raises:
        ClusterError: a process in ``needs`` has ended, or ``timeout`` seconds have passed. The message
            ends with the last lines of the log.
    """
    processes = tuple(needs)
    deadline = time.monotonic() + timeout
    while not probe():
        for process in processes:
            if process.pid is None:
                raise ClusterError(f"{process.name} ended; its log says:\n{process.tail()}")
        if time.monotonic() > deadline:
            logs = "\n".join(f"{process.log}:\n{process.tail()}" for process in processes)
            raise ClusterError(f"{what}: not so after {timeout:.0f} s\n{logs}")
        time.sleep(0.05)


def listens(address: str, port: int) -> bool:
    """Whether a TCP server accepts connections at this address."""
    with socket.socket() as client:
        return client.connect_ex((address, port)) == 0


def environment() -> dict[str, str]:
    """The environment of the cluster's processes: this one's, without proxies and KUBECONFIG."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}


def _birth(pid: int) -> str | None:
    """The boot and the clock tick at which a live process started (proc_pid_stat(5)), else None."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    state, *fields = stat.rpartition(")")[2].split()
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return None if state in "ZX" else f"{boot}/{fields[18]}"
