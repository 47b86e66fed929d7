"""Energy of a stage's GPUs. NVIDIA's driver and torch's view of its GPUs are stand-ins: no machine of the tests has a GPU."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import ModuleType, SimpleNamespace

import pytest
from evolution_jobs.attempt.spent import Spent, counters


class Driver(ModuleType):
    """The calls of nvidia-ml-py that are used, for GPUs whose counters the test sets."""

    NVML_DEVICE_MIG_DISABLE, NVML_DEVICE_MIG_ENABLE = 0, 1

    class NVMLError(Exception):
        pass

    def __init__(self, counts: Mapping[str, int | None], sliced: str = "", fails: str = "") -> None:
        super().__init__("pynvml")
        self.counts, self.sliced, self.fails = dict(counts), sliced, fails

    def _called(self, name: str) -> None:
        if self.fails == name:
            raise self.NVMLError(name)

    def nvmlInit(self) -> None:
        self._called("init")

    def nvmlDeviceGetCount(self) -> int:
        self._called("count")
        return len(self.counts)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return list(self.counts)[index]

    def nvmlDeviceGetUUID(self, handle: str) -> str:
        return handle

    def nvmlDeviceGetMigMode(self, handle: str) -> list[int]:
        self._called("mig")
        return [int(handle == self.sliced), 0]

    def nvmlDeviceGetTotalEnergyConsumption(self, handle: str) -> int:
        if (count := self.counts[handle]) is None:
            raise self.NVMLError("not supported")
        return count


def torch_sees(*uuids: str, used: bool = True) -> SimpleNamespace:
    return SimpleNamespace(
        cuda=SimpleNamespace(
            device_count=lambda: len(uuids),
            is_initialized=lambda: used,
            get_device_properties=lambda gpu: SimpleNamespace(uuid=uuids[gpu]),
        )
    )


def spend(monkeypatch: pytest.MonkeyPatch, driver: Driver, torch: SimpleNamespace | None) -> float | None:
    """The joules of an attempt in which GPU a uses 1500 mJ, and b 500."""
    monkeypatch.setitem(sys.modules, "pynvml", driver)
    if torch is None:
        monkeypatch.delitem(sys.modules, "torch", raising=False)
    else:
        monkeypatch.setitem(sys.modules, "torch", torch)
    spent = Spent()
    for uuid, joules in (("GPU-a", 1500), ("GPU-b", 500)):
        if driver.counts.get(uuid) is not None:
            driver.counts[uuid] += joules  # type: ignore[operator]
    return spent.joules()


@pytest.mark.parametrize(
    ("counts", "torch", "joules"),
    [
        ({"GPU-a": 10_000}, torch_sees("a", used=False), 1.5),
        ({"GPU-a": 10_000, "GPU-b": 7}, torch_sees("a", "b", used=False), 2.0),
        # Beside a GPU of others.
        ({"GPU-a": 10_000, "GPU-b": 7}, torch_sees("b"), 0.5),
        ({"GPU-a": 10_000, "GPU-b": 7}, torch_sees("b", used=False), None),
        # One of two does not count.
        ({"GPU-a": 10_000, "GPU-b": None}, torch_sees("a", "b"), None),
        ({"GPU-a": 10_000, "GPU-b": None}, torch_sees("a"), 1.5),
        # A stage that uses no GPU on a machine that has some, and AMD's GPUs, of which this driver shows none.
        ({"GPU-a": 10_000}, torch_sees(), None),
        ({"GPU-a": 10_000}, None, None),
        ({}, torch_sees("a"), None),
        ({}, torch_sees(), None),
    ],
)
def test_energy_is_that_of_the_gpus_which_the_process_holds(
    monkeypatch: pytest.MonkeyPatch, counts: dict[str, int | None], torch: SimpleNamespace | None, joules: float | None
) -> None:
    assert spend(monkeypatch, Driver(counts), torch) == joules


def test_a_slice_of_a_gpu_does_not_get_the_energy_of_all_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert spend(monkeypatch, Driver({"GPU-a": 10_000}, sliced="GPU-a"), torch_sees("a")) is None


def test_a_gpu_that_knows_no_slices_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    assert spend(monkeypatch, Driver({"GPU-a": 10_000}, fails="mig"), torch_sees("a")) == 1.5


@pytest.mark.parametrize("fails", ["init", "count"])
def test_a_driver_that_fails_does_not_fail_the_stage(monkeypatch: pytest.MonkeyPatch, fails: str) -> None:
    assert spend(monkeypatch, Driver({"GPU-a": 10_000}, fails=fails), torch_sees("a")) is None


def test_without_the_package_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert counters() == {}


def test_the_real_package_without_a_driver_knows_nothing() -> None:
    nvml = pytest.importorskip("pynvml")
    try:
        nvml.nvmlInit()
    except nvml.NVMLError:
        assert counters() == {}
    else:
        assert len(counters()) == nvml.nvmlDeviceGetCount()
