"""How much memory is free: of the machine, and within the control groups that this process is in."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

from ..errors import QuanttoolError

ROOT = Path("/")  # where /proc and /sys are looked for

# limit and use of a group, and the lines of memory.stat that count cached files, which the system takes back at will:
# of control groups version 2 (Linux Documentation/admin-guide/cgroup-v2.rst) and 1 (cgroup-v1/memory.rst)
VERSION_2 = "memory.max", "memory.current", ("inactive_file", "active_file")
VERSION_1 = "memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")


def free_memory() -> int:
    """Bytes that this process can still take without anything being swapped or killed.

    Raises QuanttoolError where the system does not say.
    """
    found = [*_of_machine(), *_of_groups()]
    if not found:
        raise QuanttoolError("this system does not say how much memory is free; give a size with --memory")
    return max(0, min(found))


def _of_machine() -> Iterator[int]:
    with suppress(OSError, KeyError):
        kilobytes = _numbers((ROOT / "proc/meminfo").read_text())["MemAvailable:"]
        yield 1024 * kilobytes
        return
    with suppress(AttributeError, ValueError, OSError):  # not Linux: half of what there is
        yield os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2


def _of_groups() -> Iterator[int]:
    """What is left to each limited group that this process is in; a group's ancestors limit it, too."""
    try:
        lines = (ROOT / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers == "":
            top, files = ROOT / "sys/fs/cgroup", VERSION_2
        elif "memory" in controllers.split(","):
            top, files = ROOT / "sys/fs/cgroup/memory", VERSION_1
        else:
            continue
        path = PurePosixPath(name.lstrip("/"))
        for group in (path, *path.parents):
            with suppress(OSError, ValueError, KeyError):  # no such file, or "max": not limited
                yield _left(top / group, *files)


def _left(group: Path, limit: str, used: str, cached: tuple[str, ...]) -> int:
    statistics = _numbers((group / "memory.stat").read_text())
    taken = int((group / used).read_text()) - sum(statistics[key] for key in cached)
    return int((group / limit).read_text()) - taken


def _numbers(text: str) -> dict[str, int]:
    """Lines of a name, a number, and perhaps a unit."""
    return {words[0]: int(words[1]) for words in map(str.split, text.splitlines()) if len(words) > 1}
