"""Claims: of two runs that want the same result one computes it, and the other waits or takes over."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from evolution_jobs import runner
from evolution_jobs.attempt import claim
from evolution_jobs.attempt.claim import EXPIRY, LOOK, Held, acquire, claimed, encoded
from evolution_jobs.contract.errors import Terminated, TransientError
from evolution_jobs.contract.keys import claim_path, claims_prefix, stage_prefix
from evolution_jobs.contract.locations import Storage
from evolution_jobs.contract.manifest import Claim
from evolution_jobs.contract.stage import Shard, StageSpec
from evolution_jobs.contract.workspace import Result, Workspace
from evolution_jobs.store.base import Store
from evolution_jobs.store.file import FileStore
from evolution_jobs.store.open import open_store
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.stages import fake_stages
from tests.support.stages.runner import Runner


class World:
    """A store, and a clock that only waiting moves: at each look something may happen."""

    def __init__(self, storage: Storage, *happens: Callable[[], Any]) -> None:
        self.store = open_store(storage)
        self.mine = fake_stages.spec(storage, "prepare", name="mine")
        self.theirs = fake_stages.spec(storage, "prepare", name="theirs")
        self.now = 0.0
        self.result: str | None = None
        self.waited_for: list[str | None] = []
        self.happens = list(happens)

    def claimed(self, spec: StageSpec, number: int = 1) -> None:
        self.store.put_bytes(encoded(spec), claim_path(spec.key, number))

    def pause(self, seconds: float) -> None:
        self.now += seconds
        if self.happens:
            self.happens.pop(0)()

    def acquire(self) -> str | int:
        return acquire(self.store, self.mine, lambda: self.result, self.waited_for.append, self.pause, lambda: self.now)

    def claims(self) -> list[str]:
        return sorted(location for location, _ in self.store.list(claims_prefix(self.mine.key)))


@pytest.fixture
def world(storage: Storage) -> World:
    return World(storage)


def test_a_stage_that_nobody_computes_is_claimed_at_once(world: World) -> None:
    assert world.acquire() == 1
    (location,) = world.claims()
    found = world.store.read(location)
    assert found is not None
    assert Claim.stored(found).run == world.mine.run
    assert world.waited_for == []


def test_attempts_and_shards_of_one_run_share_its_claim(world: World) -> None:
    earlier = world.mine.model_copy(update={"attempt": "before", "shard": Shard(index=1, count=2)})
    world.claimed(earlier)
    assert world.acquire() == 1
    assert world.waited_for == []


def test_another_runs_result_is_waited_for_and_taken(world: World) -> None:
    world.claimed(world.theirs)
    world.happens = [lambda: None, lambda: setattr(world, "result", "theirs")]
    assert world.acquire() == "theirs"
    assert world.waited_for == ["tests/theirs"] * 2


def test_a_claim_that_is_freed_is_taken_up_at_the_next_look(world: World) -> None:
    world.claimed(world.theirs)
    world.happens = [lambda: world.store.delete(claim_path(world.theirs.key, 1))]
    assert world.acquire() == 1
    assert world.now == LOOK


def test_a_result_published_just_before_its_claim_is_freed_is_not_made_again(world: World) -> None:
    looks = []

    def published() -> str | None:
        looks.append(1)
        # The holder publishes and frees its claim after this look.
        if len(looks) == 1:
            world.store.delete(claim_path(world.theirs.key, 1))
            return None
        return "theirs"

    world.claimed(world.theirs)
    told = world.waited_for.append
    with claimed(world.store, world.store, world.mine, published, told, world.pause) as found:
        assert found == "theirs"
    assert world.waited_for == ["tests/theirs", None]


def test_who_could_not_look_for_a_while_takes_nothing_over(world: World) -> None:
    """The storage was away for all: the holder could not renew, and its claim was as old as it had been before."""
    world.claimed(world.theirs)

    def away() -> None:
        world.now += 2 * EXPIRY

    world.happens = [away, lambda: None, lambda: setattr(world, "result", "theirs")]
    assert world.acquire() == "theirs"
    assert world.claims() == [claim_path(world.theirs.key, 1)]


def test_a_run_of_one_name_on_two_machines_waits_too(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ref = world.mine.run.model_copy(update={"uid": "local:tests/mine"})
    world.mine = world.mine.model_copy(update={"run": ref})
    monkeypatch.setattr(claim.socket, "gethostname", lambda: "another-host")
    world.claimed(world.mine)
    monkeypatch.setattr(claim.socket, "gethostname", lambda: "this-host")
    world.happens = [lambda: setattr(world, "result", "theirs")]
    assert world.acquire() == "theirs"


@given(renewed=st.integers(0, 5))
@settings(max_examples=6, deadline=None)
def test_a_claim_is_taken_over_once_it_has_not_been_renewed_for_a_minute(
    tmp_path_factory: pytest.TempPathFactory, renewed: int
) -> None:
    world = World(Storage(uri=tmp_path_factory.mktemp("store").as_uri()))
    world.claimed(world.theirs)
    world.happens = [lambda: world.claimed(world.theirs)] * renewed
    assert world.acquire() == 2
    assert world.now == renewed * LOOK + EXPIRY
    assert len(world.claims()) == 2


@pytest.mark.parametrize("content", [b"", b"{", b'{"version": 9}', b"\xff"])
def test_a_claim_that_cannot_be_read_is_another_runs(world: World, content: bytes) -> None:
    world.store.put_bytes(content, claim_path(world.mine.key, 7))
    assert world.acquire() == 8
    assert set(world.waited_for) == {"another run", None}


def test_who_waits_stops_when_asked_to(world: World) -> None:
    def stop(_: float) -> None:
        raise Terminated

    world.claimed(world.theirs)
    with pytest.raises(Terminated):
        acquire(world.store, world.mine, lambda: None, world.waited_for.append, stop)


def test_of_many_runs_at_once_one_gets_the_claim(real_storage: Storage) -> None:
    store = open_store(real_storage)
    specs = [fake_stages.spec(real_storage, "prepare", name=f"run-{number}") for number in range(8)]
    barrier = threading.Barrier(8)

    def stopped(_: float) -> None:
        raise Terminated

    def compete(spec: StageSpec) -> int | None:
        barrier.wait()
        try:
            return acquire(store, spec, lambda: None, lambda _: None, stopped)
        except Terminated:
            return None

    with ThreadPoolExecutor(8) as pool:
        claims = list(pool.map(compete, specs))
    assert sorted(claims, key=str) == [1, *[None] * 7]


class Told(FileStore):
    """Tells of each renewal, and refuses some."""

    def __init__(self, store: Store, refused: int) -> None:
        super().__init__(store.root)  # type: ignore[attr-defined]
        self.refused = refused
        self.renewed = threading.Semaphore(0)

    def put_bytes(self, data: bytes, location: str) -> None:
        self.refused -= 1
        if self.refused >= 0:
            raise TransientError("StorageUnreachable", "away")
        super().put_bytes(data, location)
        self.renewed.release()


@pytest.mark.parametrize("refused", [0, 2])
def test_a_claim_is_renewed_while_the_stage_is_computed_and_freed_after_it(
    directory: Storage,
    monkeypatch: pytest.MonkeyPatch,
    refused: int,
) -> None:
    monkeypatch.setattr(claim, "RENEWAL", 0.01)
    world = World(directory)
    number = world.acquire()
    assert isinstance(number, int)
    store = Told(world.store, refused)
    first = store.read(claim_path(world.mine.key, number))
    held = Held(store, world.mine, number)
    for _ in range(3):
        assert store.renewed.acquire(timeout=30)
    assert store.read(claim_path(world.mine.key, number)) != first
    held.release(free=True)
    assert world.claims() == []


def test_a_claim_that_an_earlier_process_has_left_is_renewed_at_once(directory: Storage) -> None:
    world = World(directory)
    world.claimed(world.mine)
    left = world.store.read(claim_path(world.mine.key, 1))
    store = Told(world.store, 0)
    number = world.acquire()
    assert number == 1
    held = Held(store, world.mine, number)
    assert store.renewed.acquire(timeout=30)
    assert world.store.read(claim_path(world.mine.key, 1)) != left
    held.release(free=False)
    assert len(world.claims()) == 1


def test_who_ends_while_the_storage_is_away_leaves_its_claim_to_run_out(directory: Storage) -> None:
    world = World(directory)
    number = world.acquire()
    assert isinstance(number, int)
    store = Told(world.store, 99)
    held = Held(store, world.mine, number)
    held.release(free=True)
    assert store.refused < 99
    assert len(world.claims()) == 1


def test_a_look_that_fails_leaves_no_claim_behind(directory: Storage) -> None:
    world = World(directory)

    def fails() -> str | None:
        raise TransientError("StorageUnreachable", "away")

    told = world.waited_for.append
    with (
        pytest.raises(TransientError),
        claimed(world.store, world.store, world.mine, fails, told, world.pause),
    ):
        raise AssertionError("nothing is computed")
    assert world.claims() == []


def test_shards_leave_the_claim_to_the_others(directory: Storage) -> None:
    world = World(directory)
    world.mine = world.mine.model_copy(update={"shard": Shard(index=0, count=2)})
    told = world.waited_for.append
    with claimed(world.store, world.store, world.mine, lambda: None, told, world.pause) as found:
        assert found is None
    assert len(world.claims()) == 1


# Whole stages.


def test_of_two_equal_runs_one_trains_and_the_other_waits_for_it(
    real_storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claim, "LOOK", 0.01)
    trained: list[str] = []
    reports: dict[str, Any] = {}
    begun, waits = threading.Event(), threading.Event()
    monkeypatch.setattr(
        runner, "write_report", lambda report: reports.__setitem__(threading.current_thread().name, report)
    )
    monkeypatch.setattr(
        runner, "say_waiting", lambda spec, holder, stop: (reports.setdefault("holder", holder), waits.set())
    )

    def sft(workspace: Workspace) -> Result:
        trained.append(workspace.spec.run.name)
        begun.set()
        assert waits.wait(60)
        return fake_stages.sft(workspace)

    assert runner.run_stage(fake_stages.spec(real_storage, "prepare"), fake_stages.stages()) == 0
    contents = reports["MainThread"].contents
    codes: dict[str, int] = {}

    def drive(name: str) -> None:
        codes[name] = runner.run_stage(
            fake_stages.spec(real_storage, "sft", contents, name=name), fake_stages.stages(sft=sft)
        )

    first, second = (threading.Thread(target=drive, args=(name,), name=name) for name in ("first", "second"))
    first.start()
    assert begun.wait(60)
    second.start()
    for thread in (first, second):
        thread.join(120)
    assert codes == {"first": 0, "second": 0}
    assert trained == ["first"]
    assert (reports["first"].reason, reports["second"].reason) == ("Completed", "Cached")
    assert reports["holder"] == "tests/first"
    assert reports["second"].message == "ComputedElsewhere: run tests/first has published this stage"
    assert reports["second"].digest == reports["first"].digest
    left = [name for name, _ in open_store(real_storage).list(stage_prefix(reports["first"].key)) if "/claims/" in name]
    assert left == []


def test_a_stage_that_fails_leaves_the_claim_free_for_the_next_run(
    directory: Storage,
    run: Runner,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    contents = run.prepared(directory)

    def fails(_: Workspace) -> Result:
        raise TransientError("StorageFull", "no room")

    def unwanted(*_: Any) -> None:
        raise AssertionError("nobody computes it, and yet it was waited for")

    monkeypatch.setattr(runner, "say_waiting", unwanted)
    assert run(fake_stages.spec(directory, "sft", contents), sft=fails)[1].reason == "StorageFull"
    assert run(fake_stages.spec(directory, "sft", contents, name="other"))[1].reason == "Completed"


def test_the_run_whose_stage_was_killed_goes_on_at_once_and_another_takes_over(
    directory: Storage,
    run: Runner,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    contents = run.prepared(directory)
    spec = fake_stages.spec(directory, "sft", contents)
    store = open_store(directory)
    store.put_bytes(encoded(spec), claim_path(spec.key, 1))
    assert run(spec)[1].reason == "Completed"
    store.delete(stage_prefix(spec.key))
    store.put_bytes(encoded(spec), claim_path(spec.key, 1))
    monkeypatch.setattr(claim, "LOOK", 0.01)
    monkeypatch.setattr(claim, "EXPIRY", 0.05)
    code, report = run(spec.model_copy(update={"run": spec.run.model_copy(update={"name": "other", "uid": "other"})}))
    assert (code, report.reason) == (0, "Completed")
