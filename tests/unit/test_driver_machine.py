"""Random histories of the local driver over a real store: stages are killed, files corrupted, and the driver itself killed.

Driver, attempts, look-up, planner, runner and store are real. Only the processes are fake: each ends when and how the
history says, and computes a line of text.
"""

import shutil
import tempfile
from pathlib import Path

from evolution_jobs.contract.errors import PermanentError, Terminated, TransientError
from evolution_jobs.contract.keys import attempt_prefix, manifest_path
from evolution_jobs.contract.manifest import Manifest
from evolution_jobs.contract.stage import RunRef
from evolution_jobs.store.file import FileStore
from evolution_jobs.store.manifests import CorruptManifestError, corrupt_files, read_manifest
from evolution_operator.api.spec import EvolutionRunSpec
from evolution_operator.local.attempts import clear
from evolution_operator.local.driver import Driver
from evolution_operator.local.machine import Machine
from evolution_operator.planner.actions import Start
from evolution_operator.planner.observed import Run
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from tests.support.invariants import RunHistory, check_inputs, check_rivals, histories
from tests.support.run_document import minimal_spec
from tests.support.stages.fake_processes import Server, raising

MACHINES = [Machine(1), Machine(4), Machine(4, ("0",)), *2 * [Machine(4, ("0", "1", "2"))]]


class Driving(RuleBasedStateMachine):
    @initialize(
        machine=st.sampled_from(MACHINES), shards=st.sampled_from([1, 2, 2]), rounds=st.sampled_from([0, 1, 2, 3, 4, 6])
    )
    def begin(self, machine, shards, rounds):
        """A run in which an earlier driver has made some progress already."""
        self.directory = Path(tempfile.mkdtemp())
        self.store = FileStore(self.directory / "store")
        self.spec = minimal_spec(
            storage_uri=self.store.uri,
            seed_uri="file:///data/esconv.jsonl",
            iterations=1,
            generation={"shards": shards},
            retry={"maxAttempts": 3, "backoffSeconds": 0},
        )
        self.machine = machine
        self.edition, self.life = 0, 0
        self.zombies = []
        self.corrupted = set()
        """Keys of published stages with corrupted files, until they are computed again."""
        self.start_driver()
        self.work(rounds)
        self.driver.end()
        self.start_driver()
        self.step()

    def start_driver(self):
        """Start a driver. It knows nothing but the store."""
        self.life += 1
        self.history = RunHistory()
        self.server = Server(self.check_process)
        self.driver = Driver(
            Run(
                RunRef(namespace="default", name="first", uid="uid"),
                EvolutionRunSpec.model_validate(self.spec),
                attempt_prefix=f"life{self.life}",
                pins={"source": str(self.edition)},
            ),
            self.store,
            self.machine,
            self.directory,
            lambda _: None,
            self.server,
        )
        clear(self.directory)
        self.driver.begin()
        self.corrupted -= {key for key in self.corrupted if not self.published(key)}

    def published(self, key):
        return self.store.read(manifest_path(key)) is not None

    # ---- invariants

    def check_attempt(self, start):
        """Its inputs are published, or corrupted without any attempt of this driver having reported it."""
        self.history.start(start.spec, start.number)
        known = {
            other.corrupt_input
            for other in self.server.processes
            if not other.stop_requested and not self.siblings(other)
        }
        keys = {source.key for source in start.spec.inputs.values()}
        there = {key for key in keys if self.published(key)}
        check_inputs(start.spec, there | (self.corrupted - known), start.spec.stage)

    def check_process(self, process):
        spec = process.spec
        writers = [process, *self.server.alive()]
        check_rivals((p.spec.stage, p.spec.key, p.spec.attempt) for p in writers)
        if process.gpu is not None:
            assert process.gpu not in [other.gpu for other in self.server.alive()], "two processes on one GPU"
        if not self.machine.gpus:
            assert {(p.spec.stage, p.spec.attempt) for p in self.server.alive()} <= {(spec.stage, spec.attempt)}

    def siblings(self, process):
        """Live processes of the same attempt."""
        return [
            p
            for p in self.server.alive()
            if (p.spec.stage, p.spec.attempt) == (process.spec.stage, process.spec.attempt)
        ]

    def watch(self, decided):
        self.plans += 1
        assert self.plans < 20, "it plans endlessly"
        for action in decided.actions:
            if isinstance(action, Start):
                self.check_attempt(action)
        self.history.write(decided.status)
        for event in decided.events:
            self.history.record(event)

    # ---- the driver

    @rule()
    def step(self):
        self.plans = 0
        self.status = self.driver.step(self.watch)

    @rule(after_a_step=st.booleans(), edit=st.sampled_from([None, None, "beta", "iterations", "source", "suspend"]))
    def kill_the_driver(self, after_a_step, edit):
        """Its processes end with it, but not at once."""
        if after_a_step:
            self.step()
        self.zombies += self.server.alive()
        if edit == "beta":
            self.spec["dpo"] = {"beta": 0.2 if "dpo" not in self.spec else 0.1}
        elif edit == "iterations":
            self.spec["iterations"] = min(2, self.spec["iterations"] + 1)
        elif edit == "source":
            self.edition += 1
        self.spec["suspend"] = edit == "suspend"
        self.start_driver()

    @rule()
    def interrupt_the_driver(self):
        self.driver.end()
        assert not self.server.alive()
        self.start_driver()

    # ---- processes

    def pick(self, index):
        alive = self.server.alive()
        return alive[index % len(alive)]

    def end(self, process, **how):
        process.work(**how)
        if self.published(process.spec.key) and process.exitcode == 0:
            self.corrupted.discard(process.spec.key)
            for other in self.server.processes:
                # It reported the result before this one.
                other.corrupt_input = None if other.corrupt_input == process.spec.key else other.corrupt_input

    @precondition(lambda self: self.server.alive())
    @rule(index=st.integers(0, 5))
    def finish(self, index):
        self.end(self.pick(index))

    @rule(rounds=st.integers(1, 4))
    def work(self, rounds):
        """No faults for a while, so that the run makes progress."""
        for _ in range(rounds):
            self.step()
            for process in self.server.alive():
                self.end(process)
        self.step()

    @precondition(lambda self: self.server.alive())
    @rule(index=st.integers(0, 5))
    def finish_and_die_before_reporting(self, index):
        self.end(self.pick(index), code=-9)

    @precondition(lambda self: self.server.alive())
    @rule(index=st.integers(0, 5), signal=st.sampled_from([-9, -11, -15]))
    def kill(self, index, signal):
        self.pick(index).end(signal)

    @precondition(lambda self: self.server.alive())
    @rule(index=st.integers(0, 5), error=st.sampled_from([PermanentError, TransientError, MemoryError]))
    def fail(self, index, error):
        how = error() if error is MemoryError else error("Reason", "message")
        self.end(self.pick(index), stages=raising(how))

    @precondition(lambda self: any(process.stop_requested for process in self.server.alive()))
    @rule()
    def stopping_processes_exit(self):
        for process in self.server.alive():
            if process.stop_requested:
                self.end(process, stages=raising(Terminated()))

    @precondition(lambda self: self.zombies)
    @rule(publishes=st.booleans())
    def a_process_of_a_dead_driver_ends(self, publishes):
        zombie = self.zombies.pop()
        if not publishes:
            zombie.end(137)
            return
        manifests = self.store.root.glob("stages/*/manifest.json")
        before = {path: path.read_bytes() for path in manifests if path.parent.name not in self.corrupted}
        self.end(zombie, code=137)
        after = {path: path.read_bytes() for path in before if path.exists()}
        assert after.items() <= before.items(), "a zombie overwrites a result"

    # ---- files

    @rule(index=st.integers(0, 20), how=st.sampled_from(["remove", "garble", "file", "manifest"]))
    def corrupt(self, index, how):
        manifests = sorted(self.store.root.glob("stages/*/manifest.json"))
        if not manifests:
            return
        path = manifests[index % len(manifests)]
        try:
            manifest = Manifest.model_validate_json(path.read_bytes())
        except ValueError:
            return
        files = sorted((self.store.root / attempt_prefix(manifest.key, manifest.attempt)).rglob("*.jsonl"))
        self.corrupted.add(manifest.key)
        if how == "manifest":
            path.write_text("{")
        elif how == "remove" or not files:
            path.unlink()
        elif how == "file":
            files[0].unlink(missing_ok=True)
        else:
            files[0].write_bytes(b"corrupted")

    # ---- the end

    def teardown(self):
        """Without further faults, the run ends Complete, and stays so."""
        if not hasattr(self, "driver"):
            return
        try:
            self.check_the_end()
        finally:
            shutil.rmtree(self.directory)

    def check_the_end(self):
        self.spec["suspend"] = False
        for _ in range(5):
            self.drive()
            if self.status.phase == "Complete" and self.is_intact():
                break
            for process in self.server.alive():
                process.end(-9)
            self.start_driver()
        assert self.status.phase == "Complete", self.status
        assert self.is_intact(), "a driver counts corrupted results as finished"
        self.check_fixed_point()
        self.start_driver()
        self.check_fixed_point()
        assert not self.server.processes, "a finished run starts processes again"
        figures = [entry.iteration for entry in self.status.metrics]
        assert figures == list(range(self.spec["iterations"] + 1))
        assert self.status.champion == self.spec["iterations"]

    def is_intact(self):
        """Whether every result exists and matches its digest."""
        try:
            manifests = [read_manifest(self.store, stage.key) for stage in self.status.stages]
        except CorruptManifestError:
            return False
        return all(manifest and not corrupt_files(self.store, manifest) for manifest in manifests)

    def drive(self):
        """Drive the run as `Driver.drive` does. Every process succeeds."""
        for _ in range(40):
            self.step()
            alive = self.server.alive()
            if self.status.phase in ("Complete", "Failed", "Suspended") and not alive:
                return
            for process in alive:
                self.end(process)
        raise AssertionError(f"the run does not end: {self.status}")

    def check_fixed_point(self):
        before = {path: path.stat().st_mtime_ns for path in self.store.root.rglob("*")}
        self.step()
        status = self.history.status
        self.step()
        assert self.status == status
        assert status.phase == "Complete"
        assert self.plans == 1, "a finished run is a fixed point"
        assert before == {path: path.stat().st_mtime_ns for path in self.store.root.rglob("*")}


TestDriving = Driving.TestCase
TestDriving.settings = histories(30)
