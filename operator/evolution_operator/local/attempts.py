"""An attempt on this machine: the processes of its shards, and what the planner sees of them."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from evolution_jobs.cgroup import oom_kills
from evolution_jobs.contract.errors import EXIT_KILLED, EXIT_PERMANENT, failure_kind
from evolution_jobs.contract.manifest import Report
from evolution_jobs.contract.stage import RankLayout, Shard

from ..api.status import StageProgress
from ..planner.actions import Start
from ..planner.observed import Attempt, AttemptState, Failure
from ..planner.progress import Pace, attempt_progress
from .machine import Machine
from .process.launcher import Launcher
from .process.stage_process import StageProcess


class LocalAttempt:
    """One attempt at a stage. As many of its shards run at once as there are GPUs, or else cores.

    Args:
        start: the planner's action.
        directory: where logs and reports go.
        clock: monotonic seconds.
        kills: how often the kernel has killed one of our processes for memory; None if unknown.
    """

    def __init__(
        self,
        start: Start,
        directory: Path,
        clock: Callable[[], float] = time.monotonic,
        kills: Callable[[], int | None] = oom_kills,
    ) -> None:
        self.start = start
        self.stage = start.spec.stage
        self.number = start.number
        self._directory = directory
        self._clock = clock
        self._kills = kills
        self._kills_before: int | None = None
        """The count when the attempt was last admitted."""
        self._waiting = list(range(start.shards))
        self._running: dict[int, tuple[StageProcess, str | None]] = {}
        self._reports: dict[int, Report | None] = {}
        self._failure: Failure | None = None
        self._admitted = False
        self._suspended = False
        self._stopped = False
        self._started_at: datetime | None = None
        self._paces: dict[int, Pace] = {}
        """Pace of each shard, ended ones included."""

    @property
    def admitted(self) -> bool:
        """Whether it was admitted and has not ended."""
        return self._admitted and not self.over

    @property
    def wants_room(self) -> bool:
        """Whether it waits for cores or GPUs."""
        return not self._suspended and not self._stopped and self._failure is None and bool(self._waiting)

    @property
    def over(self) -> bool:
        """Whether none of its processes runs or will run."""
        ended = self._failure is not None or self._stopped or len(self._reports) == self.start.shards
        return ended and not self._running

    @property
    def needs_gpu(self) -> bool:
        """Whether each of its processes takes a GPU if the machine has any."""
        return self.start.spec.kind not in ("prepare", "judge")

    @property
    def gpus(self) -> list[str]:
        """GPUs that its processes hold."""
        return [gpu for _, held in self._running.values() if held is not None for gpu in held.split(",")]

    @property
    def processes(self) -> list[StageProcess]:
        """The processes that run now."""
        return [process for process, _ in self._running.values()]

    @property
    def corrupt_input(self) -> str | None:
        """Key of the input that it found missing or corrupt; that manifest is withdrawn."""
        stage = self._failure.corrupt if self._failure else None
        return next((source.key for source in self.start.spec.inputs.values() if source.stage == stage), None)

    def log(self, shard: int = 0) -> Path:
        """Where the shard's standard error goes."""
        suffix = f"-{shard}" if self.start.shards > 1 else ""
        return self._directory / f"{self.stage}-{self.number}{suffix}.log"

    def admit(self, launcher: Launcher, machine: Machine, gpus: list[str]) -> None:
        """Start as many waiting shards as fit. Removes the GPUs that they use from the list."""
        layout = self._layout(machine)
        if self.needs_gpu and len(machine.gpus) > 0 and len(gpus) < layout.processes:
            return
        side_by_side = min(self.start.shards, len(machine.gpus) if self.needs_gpu and machine.gpus else machine.cpus)
        if self._started_at is None:
            self._started_at = datetime.now(UTC)
        self._admitted = True
        if self._waiting and not self._running:
            self._kills_before = self._kills()
        while self._waiting and len(self._running) < side_by_side:
            gpu: str | None = None
            if self.needs_gpu and machine.gpus:
                if not gpus:
                    return
                gpu = ",".join(gpus.pop(0) for _ in range(layout.processes))
            shard = self._waiting.pop(0)
            which = {"shard": Shard(index=shard, count=self.start.shards), "ranks": layout}
            spec = self.start.spec.model_copy(update=which)
            environment: Mapping[str, str] = {} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}
            process = launcher.start(
                spec, self.log(shard), self._report_path(shard), environment, max(1, machine.cpus // side_by_side)
            )
            self._running[shard] = (process, gpu)

    def _layout(self, machine: Machine) -> RankLayout:
        """Processes that train together: as many as the run asks for on all nodes, at most one for each GPU or core."""
        room = len(machine.gpus) if self.needs_gpu and machine.gpus else machine.cpus
        asked = self.start.spec.ranks
        return RankLayout(processes=min(asked.count, max(1, room)), sharding=asked.sharding)

    def poll(self) -> None:
        """Read output and ends of processes. If a shard fails, the attempt's other shards are ended."""
        for shard, (process, _) in list(self._running.items()):
            process.read()
            self._note_progress(shard, process)
            if process.exit_code is None:
                continue
            process.join()
            process.close()
            del self._running[shard]
            report = process.report
            if process.exit_code == 0:
                self._reports[shard] = report
                if shard in self._paces:
                    self._paces[shard] = self._paces[shard].ended()
            elif self._suspended:
                self._waiting.append(shard)
            elif self._failure is None and not self._stopped:
                self._failure = self._why(process, report)
                self._terminate()

    def suspend(self) -> None:
        """Ask its processes to save and stop, until `resume`."""
        self._suspended = True
        self._terminate()

    def resume(self) -> None:
        """Let it be admitted again."""
        self._suspended = False
        self._admitted = False
        # The pause must not count as slow progress.
        self._paces.clear()
        self._waiting.sort()

    def stop(self) -> None:
        """End it for good. Its finished rows and checkpoints stay for the next attempt."""
        self._stopped = True
        self._waiting.clear()
        self._terminate()

    def kill(self) -> None:
        """Kill its processes."""
        for process in self.processes:
            process.kill()

    def observed(self) -> Attempt:
        """The attempt as the planner sees it."""
        return Attempt(
            stage=self.stage,
            number=self.number,
            key=self.start.spec.key,
            state=self._state(),
            started_at=self._started_at,
            finished_at=datetime.now(UTC) if self.over and self._started_at else None,
            failure=self._failure if not self._running else None,
            report=self._result() if self._state() == "succeeded" else None,
            progress=self._progress(),
            note=self._note(),
            shards_done=len(self._reports),
            shards=self.start.shards,
        )

    def _state(self) -> AttemptState:
        if self._failure is not None and not self._running:
            return "failed"
        if len(self._reports) == self.start.shards:
            return "succeeded"
        if self._suspended and not self._running:
            return "suspended"
        return "running" if self._admitted else "queued"

    def _result(self) -> Report:
        """The stage's report: the publishing shard's, with the time of the slowest."""
        reports = [report for report in self._reports.values() if report is not None]
        by_reason = {report.reason: report for report in reports}
        # One shard publishes; another that ends at the same time finds the stage cached.
        whole = by_reason.get("Completed") or by_reason.get("Cached") or next(iter(reports), None)
        if whole is None:
            return Report(reason="Completed")
        return whole.model_copy(update={"seconds": max(report.seconds for report in reports)})

    def _progress(self) -> StageProgress | None:
        unread = len(self._reports.keys() - self._paces.keys())
        return attempt_progress(self._paces.values(), self.start.shards, unread, self._clock())

    def _note(self) -> tuple[str, str] | None:
        """The note that it waits for another run, if all of its processes do."""
        notes = [process.waiting.note() if process.waiting else None for process in self.processes]
        return notes[0] if notes and None not in notes else None

    def _note_progress(self, shard: int, process: StageProcess) -> None:
        if process.progress is not None:
            reading = replace(process.progress, at=self._clock())
            before = self._paces.get(shard)
            self._paces[shard] = before.after(reading) if before else Pace.since(reading)

    def _terminate(self) -> None:
        for process in self.processes:
            process.terminate()

    def _why(self, process: StageProcess, report: Report | None) -> Failure:
        code = process.exit_code
        assert code is not None, "only an ended process has failed"
        kind = failure_kind(code)
        if report is not None:
            return Failure(kind, report.reason, report.message, report.corrupt)
        if code in EXIT_KILLED:
            return self._why_killed(process)
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        if code == EXIT_PERMANENT:
            return Failure(kind, "StageFailed", f"{how}; its log is {process.log}")
        return Failure(kind, "ProcessDied", f"the process ended by {how} without a report; its log is {process.log}")

    def _why_killed(self, process: StageProcess) -> Failure:
        """The failure of a killed process: out of memory only if the kernel has counted it. Anybody can send SIGKILL."""
        more = "free memory on this machine"
        before, now = self._kills_before, self._kills()
        if before is not None and now is not None and now > before:
            message = f"the kernel killed the process because memory ran out (its log is {process.log})"
            return Failure("out-of-memory", "OOMKilled", message, more_memory=more)
        message = f"the process was killed (SIGKILL; its log is {process.log})"
        return Failure("transient", "Killed", message, more_memory=more)

    def _report_path(self, shard: int) -> Path:
        path = self._directory / "reports" / f"{self.stage}-{self.number}-{shard}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Otherwise the report of an earlier process of this shard could be taken for this one's.
        path.unlink(missing_ok=True)
        return path


def room(machine: Machine, attempts: list[LocalAttempt]) -> Iterator[tuple[LocalAttempt, list[str]]]:
    """Attempts that may start processes now, critical ones first, each with the free GPUs.

    Without GPUs one attempt at a time uses the whole machine, because two would only slow each other down. With GPUs
    attempts run side by side while one is free.
    """
    free = [gpu for gpu in machine.gpus if all(gpu not in attempt.gpus for attempt in attempts)]
    for attempt in sorted((a for a in attempts if a.wants_room), key=lambda a: not a.start.critical):
        others = [a for a in attempts if a is not attempt and (a.admitted or a.processes)]
        if attempt.needs_gpu and machine.gpus:
            if free:
                yield attempt, free
        elif not others or machine.gpus:
            yield attempt, []


def clear(directory: Path) -> None:
    """Delete the reports of earlier drivers from a run's directory."""
    shutil.rmtree(directory / "reports", ignore_errors=True)
