"""What is read about control groups, from files as the kernel writes them."""

from __future__ import annotations

from pathlib import Path

import pytest
from evolution_jobs.cgroup import allowed_cores, oom_kills

EVENTS = "low 0\nhigh 0\nmax 12\noom 2\noom_kill 2\noom_group_kill 0\n"
CONTROL = "oom_kill_disable 0\nunder_oom 0\noom_kill 5\n"
VMSTAT = "nr_free_pages 10\noom_kill 7\n"
V1 = "5:devices:/\n4:memory:/box\n0::/\n"


@pytest.mark.parametrize(
    ("files", "count"),
    [
        ({"proc/self/cgroup": "0::/user/me\n", "sys/fs/cgroup/user/me/memory.events": EVENTS}, 2),
        # In a container the path is the host's, or stands for the root.
        ({"proc/self/cgroup": "0::/../host/path\n", "sys/fs/cgroup/memory.events": EVENTS}, 2),
        ({"proc/self/cgroup": V1, "sys/fs/cgroup/memory/box/memory.oom_control": CONTROL}, 5),
        ({"proc/self/cgroup": V1, "sys/fs/cgroup/memory/memory.oom_control": CONTROL}, 5),
        ({"proc/self/cgroup": "0::/\n", "proc/vmstat": VMSTAT}, 7),
        ({"proc/self/cgroup": "0::/\n"}, None),
        ({}, None),
    ],
)
def test_kills_for_memory_are_read_where_the_kernel_counts_them(
    tmp_path: Path, files: dict[str, str], count: int | None
) -> None:
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert oom_kills(tmp_path) == count


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 2),
        ({"cpu.max": "50000 100000\n"}, 1),
        ({"cpu.max": "max 100000\n"}, 8),
        ({"cpu.max": ""}, 8),
        ({"cpu/cpu.cfs_quota_us": "250000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 3),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ({}, 8),
    ],
)
def test_cores_are_bounded_by_affinity_and_quota(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], cores: int
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _process: set(range(8)))
    for name, text in files.items():
        path = tmp_path / "sys/fs/cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert allowed_cores(tmp_path) == cores


def test_this_machine_is_read_without_complaint() -> None:
    found = oom_kills()
    assert found is None or found >= 0
    assert allowed_cores() >= 1
