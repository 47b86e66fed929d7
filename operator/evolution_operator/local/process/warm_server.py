"""The warm server: a process that has imported the heavy libraries once, and forks itself for each stage.

    python -m evolution_operator.local.process.warm_server SOCKET

For each stage the driver sends one byte over the socket with three descriptors: the two that `child` takes, and a socket
for reports about the process. On it the server sends one byte with the process's pidfd, and later its exit code as text.
If that socket closes without an exit code, the server is gone.

multiprocessing's forkserver does the same, but makes the driver wait until the libraries are imported, and leaves a
directory behind if the driver is killed.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import select
import selectors
import signal
import socket
import sys
import traceback
from typing import NamedTuple

from . import child

_PR_SET_PDEATHSIG = 1


class _Stage(NamedTuple):
    pid: int
    reports: socket.socket


def main(descriptor: int) -> None:
    """Import, then serve until the driver's end of the socket closes."""
    # It does not read the socket while it imports, so the kernel is asked to end it with the driver.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    earlier = select.poll()
    earlier.register(descriptor, select.POLLHUP)
    if earlier.poll(0):
        return
    importlib.import_module(f"{__package__}.preload")
    _serve(socket.socket(fileno=descriptor))


def _serve(requests: socket.socket) -> None:
    selector = selectors.DefaultSelector()
    selector.register(requests, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            if key.data is not None:
                selector.unregister(key.fd)
                os.close(key.fd)
                _report_end(key.data)
                continue
            message, descriptors, _, _ = socket.recv_fds(requests, 1, 3)
            if not message:
                return
            stage = _fork(selector, *descriptors)
            if stage is not None:
                end = os.pidfd_open(stage.pid)
                selector.register(end, selectors.EVENT_READ, stage)
                _send(stage.reports, b"+", [end])


def _fork(selector: selectors.BaseSelector, request: int, channel: int, reports: int) -> _Stage | None:
    """Fork a stage's process; None if the machine has no room for one: exit code 1 is then reported for it."""
    try:
        pid = os.fork()
    except OSError as error:
        print(f"a stage could not be started: {error.strerror}", file=sys.stderr, flush=True)  # noqa: T201
        for descriptor in (request, channel):
            os.close(descriptor)
        with socket.socket(fileno=reports) as failed:
            _send(failed, b"1", [])
        return None
    if pid == 0:
        try:
            # If a stage kept these open, the driver could not see that the server is gone.
            os.close(reports)
            for key in list(selector.get_map().values()):
                os.close(key.fd)
                if key.data is not None:
                    key.data.reports.close()
            selector.close()
            if _gpu_is_lost():
                child.start_afresh(request, channel)
            child.main(request, channel)
        except BaseException:  # noqa: BLE001 -- nothing may go on as a second server
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(request)
    os.close(channel)
    return _Stage(pid, socket.socket(fileno=reports))


def _gpu_is_lost() -> bool:
    """In a forked process: whether a library has started CUDA while it was imported. It does not survive a fork.

    torch says so on machines without a GPU, too, where nothing is lost.
    """
    cuda = sys.modules.get("torch.cuda")
    return cuda is not None and bool(cuda.is_available() and cuda._is_in_bad_fork())


def _report_end(stage: _Stage) -> None:
    _, status = os.waitpid(stage.pid, 0)
    _send(stage.reports, str(os.waitstatus_to_exitcode(status)).encode(), [])
    stage.reports.close()


def _send(reports: socket.socket, message: bytes, descriptors: list[int]) -> None:
    try:
        socket.send_fds(reports, [message], descriptors)
    except ConnectionError:
        # The driver no longer asks for this process, and may have left something unread.
        return


if __name__ == "__main__":
    main(int(sys.argv[1]))
