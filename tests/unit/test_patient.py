"""Waiting for a storage that is away."""

from pathlib import Path

import pytest
from evolution_jobs.attempt.stop import StopRequest
from evolution_jobs.contract.errors import PermanentError, Terminated, TransientError
from evolution_jobs.contract.variables import STORAGE_PATIENCE_VARIABLE
from evolution_jobs.store.base import Store
from evolution_jobs.store.file import FileStore
from evolution_jobs.store.patient import PatientStore, storage_patience
from hypothesis import given
from hypothesis import strategies as st

AWAY = TransientError("StorageUnreachable", "no answer")
FULL = TransientError("StorageFull", "no room")
DENIED = PermanentError("StorageDenied", "no")


class Wavering:
    """A store of which every operation fails with the next of `errors`, as long as there are any."""

    def __init__(self, directory: Path, *errors: Exception) -> None:
        self._store = FileStore(directory)
        self.uri = self._store.uri
        self.errors = list(errors)
        self.calls = 0

    def __getattr__(self, name: str):
        def call(*arguments):
            self.calls += 1
            if self.errors:
                raise self.errors.pop(0)
            return getattr(self._store, name)(*arguments)

        return call


class Waiting:
    """A clock that goes on by waiting."""

    def __init__(self) -> None:
        self.now = 0.0
        self.pauses: list[float] = []

    def pause(self, seconds: float) -> None:
        self.now += seconds
        self.pauses.append(seconds)

    def around(self, store: Wavering, patience: float = 300, proven: bool = True) -> PatientStore:
        return PatientStore(store, patience, proven, self.pause, lambda: self.now)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        ("put_bytes", (b"new", "a"), None),
        ("put_if_absent", (b"new", "b"), True),
        ("put_if_absent", (b"new", "a"), False),
        ("read", ("a",), b"old"),
        ("sha256", ("absent",), None),
        ("delete", ("a",), None),
    ],
)
def test_every_operation_is_repeated_until_the_store_answers(name, arguments, expected, tmp_path: Path) -> None:
    FileStore(tmp_path).put_bytes(b"old", "a")
    waiting, inner = Waiting(), Wavering(tmp_path, AWAY, AWAY, AWAY)
    assert getattr(waiting.around(inner), name)(*arguments) == expected
    assert inner.calls == 4
    assert waiting.pauses == [1, 2, 4]


def test_files_and_lists_are_whole_after_an_outage(tmp_path: Path) -> None:
    waiting = Waiting()
    (tmp_path / "local").write_bytes(b"weights")
    for method, arguments in (("put_file", (tmp_path / "local", "m/w")), ("get_file", ("m/w", tmp_path / "copy"))):
        getattr(waiting.around(Wavering(tmp_path / "store", AWAY, AWAY)), method)(*arguments)
    assert (tmp_path / "copy").read_bytes() == b"weights"
    assert dict(waiting.around(Wavering(tmp_path / "store", AWAY)).list("m/")) == {"m/w": 7}


@pytest.mark.parametrize("error", [FULL, DENIED])
def test_what_waiting_does_not_mend_is_told_at_once(error: Exception, tmp_path: Path) -> None:
    waiting = Waiting()
    with pytest.raises(type(error), match=str(error)):
        waiting.around(Wavering(tmp_path, error)).read("a")
    assert waiting.pauses == []


def test_a_store_that_has_never_answered_is_not_waited_for(tmp_path: Path) -> None:
    waiting, inner = Waiting(), Wavering(tmp_path, AWAY)
    store = waiting.around(inner, proven=False)
    with pytest.raises(TransientError, match="no answer"):
        store.read("a")
    assert waiting.pauses == []
    store.read("a")
    inner.errors = [AWAY]
    store.read("a")
    assert waiting.pauses == [1], "it has answered once, so its address is right"


@given(patience=st.floats(0, 3600))
def test_patience_ends_and_each_operation_has_its_own(patience: float) -> None:
    waiting = Waiting()
    store: Store = waiting.around(Wavering(Path("/nowhere"), *[AWAY] * 5000), patience)
    for _ in range(2):
        begun = waiting.now
        with pytest.raises(TransientError, match="no answer"):
            store.read("a")
        assert patience - 16 < waiting.now - begun <= patience or patience < 1


def test_a_process_that_is_asked_to_stop_does_not_wait(tmp_path: Path) -> None:
    stop = StopRequest()
    stop.set()
    store = PatientStore(Wavering(tmp_path, AWAY), 300, True, stop.pause)  # type: ignore[arg-type]
    with pytest.raises(Terminated):
        store.read("a")


def test_patience_is_set_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(STORAGE_PATIENCE_VARIABLE, raising=False)
    assert storage_patience() == 300
    monkeypatch.setenv(STORAGE_PATIENCE_VARIABLE, "0")
    assert storage_patience() == 0
    for wrong in ("soon", "-1", "nan", ""):
        monkeypatch.setenv(STORAGE_PATIENCE_VARIABLE, wrong)
        with pytest.raises(PermanentError, match=STORAGE_PATIENCE_VARIABLE):
            storage_patience()
