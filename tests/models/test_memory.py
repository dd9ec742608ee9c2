"""How much memory is free."""

import pytest

from quanttool.errors import QuanttoolError
from quanttool.models import memory


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "ROOT", tmp_path)

    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    write("proc/meminfo", "MemTotal:       9000 kB\nMemFree:        1000 kB\nMemAvailable:   5000 kB\n")
    return write


def test_the_machine_without_groups(write):
    assert memory.free_memory() == 5000 * 1024


def test_version_2_where_an_ancestor_is_the_tightest(write):
    write("proc/self/cgroup", "0::/user/run\n")
    write("sys/fs/cgroup/user/run/memory.max", "max\n")
    write("sys/fs/cgroup/user/run/memory.current", "700\n")
    write("sys/fs/cgroup/user/run/memory.stat", "anon 600\nfile 100\ninactive_file 40\nactive_file 60\n")
    write("sys/fs/cgroup/user/memory.max", "2000\n")
    write("sys/fs/cgroup/user/memory.current", "900\n")
    write("sys/fs/cgroup/user/memory.stat", "anon 700\nfile 200\ninactive_file 150\nactive_file 50\n")
    assert memory.free_memory() == 2000 - 700  # cached files can go


def test_version_1(write):
    write("proc/self/cgroup", "5:cpu,cpuacct:/a\n4:memory:/a\n")
    write("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "3000\n")
    write("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "3100\n")
    write("sys/fs/cgroup/memory/a/memory.stat", "cache 9\ntotal_inactive_file 100\ntotal_active_file 900\n")
    assert memory.free_memory() == 900


def test_a_group_that_is_full_leaves_nothing(write):
    write("proc/self/cgroup", "0::/\n")
    for name, text in {"max": "10", "current": "12", "stat": "inactive_file 1\nactive_file 0"}.items():
        write(f"sys/fs/cgroup/memory.{name}", text)
    assert memory.free_memory() == 0


def unknown(name):
    raise ValueError(name)


def test_a_system_that_does_not_say(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "ROOT", tmp_path)
    monkeypatch.setattr(memory.os, "sysconf", unknown)
    with pytest.raises(QuanttoolError, match="does not say how much memory is free; give a size with --memory"):
        memory.free_memory()
