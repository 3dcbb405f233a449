"""How much memory there is."""

from __future__ import annotations

from pathlib import Path

import psutil

LIMIT = Path("/sys/fs/cgroup/memory.max")  # a container may allow less than the machine has


def memory() -> tuple[int, int]:
    """Bytes that can still be had, and bytes in all."""
    found = psutil.virtual_memory()
    total = min(found.total, int(LIMIT.read_text())) if LIMIT.is_file() and LIMIT.read_text().strip().isdigit() else found.total
    return min(found.available, total), total
