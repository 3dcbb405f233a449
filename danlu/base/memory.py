"""How much memory there is."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from pathlib import Path

import psutil

GROUP = Path("/sys/fs/cgroup")  # a container may allow less than the machine has


def memory() -> tuple[int, int]:
    """Bytes that can still be had, and bytes in all."""
    found = psutil.virtual_memory()
    try:
        limit, used = int((GROUP / "memory.max").read_text()), int((GROUP / "memory.current").read_text())
        counted = dict(line.split() for line in (GROUP / "memory.stat").read_text().splitlines())
        used -= int(counted["inactive_file"])  # files' pages, which give way
    except (OSError, ValueError, KeyError):  # no container, or one without a limit ("max")
        return found.available, found.total
    return max(0, min(found.available, limit - used)), min(found.total, limit)


def give_back() -> None:
    """Return memory that was freed to the system, where its library keeps it for later (glibc)."""
    with suppress(AttributeError, OSError):
        ctypes.CDLL(None).malloc_trim(0)
