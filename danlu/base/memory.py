"""How much memory there is."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4  # as glibc's malloc.h numbers them
ABSENT = (AttributeError, OSError, TypeError)  # what ctypes raises where there is no such function, or no C library by that name
GROUP = Path("/sys/fs/cgroup")  # a container may allow less than the machine has


def memory() -> tuple[int, int]:
    """Bytes that can still be had, and bytes in all."""
    import psutil  # late, as all that a served model has no use for

    found = psutil.virtual_memory()
    try:
        limit, used = int((GROUP / "memory.max").read_text()), int((GROUP / "memory.current").read_text())
        counted = dict(line.split() for line in (GROUP / "memory.stat").read_text().splitlines())
        used -= int(counted["inactive_file"])  # files' pages, which give way
    except (OSError, ValueError, KeyError):  # no container, or one without a limit ("max")
        return found.available, found.total
    return max(0, min(found.available, limit - used)), min(found.total, limit)


def zeros(size: int, huge: bool) -> Tensor:
    """Memory that is taken page by page as it is written to. Shape: (size,), uint8.

    In the system's huge pages, where it has them, for what is written whole and read again and again: fewer addresses to look up.
    """
    import numpy as np  # late: who only asks how much memory there is, as doctor does, may have none that works
    import torch

    flags = () if sys.platform == "win32" else (mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS,)
    room = mmap.mmap(-1, max(size, 1), *flags)
    if huge:
        with suppress(AttributeError, OSError):  # other systems, or a kernel without them
            room.madvise(mmap.MADV_HUGEPAGE)
    return torch.from_numpy(np.frombuffer(room, dtype=np.uint8, count=size))


@contextmanager
def memory_kept() -> Iterator[None]:
    """While open, memory that is freed stays with this process, for the next that asks: work whose large arrays come and go by the
    thousand spends a tenth of its time on getting them from the system page by page (glibc only; elsewhere nothing changes)."""
    with _tuned({M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1}):
        yield


@contextmanager
def memory_returned() -> Iterator[None]:
    """While open, every array goes back to the system as soon as it is freed: for work that needs many for a moment each, after which
    little is left. Otherwise what threads free stays with their own stores (glibc only; elsewhere nothing changes)."""
    with _tuned({M_MMAP_MAX: 2**16, M_MMAP_THRESHOLD: 2**16, M_TRIM_THRESHOLD: 2**16}):
        yield


_open: list[dict[int, int]] = []  # what is tuned just now, the newest last: a model may be loaded while another is trained


@contextmanager
def _tuned(settings: dict[int, int]) -> Iterator[None]:
    """While open, malloc goes by these settings; behind it by those that are still open, or else where its own rule ends up."""
    _open.append(settings)
    _tune(settings)
    try:
        yield
    finally:
        place = next(i for i, one in enumerate(_open) if one is settings)
        del _open[place]
        _tune(_open[-1] if _open else {M_MMAP_MAX: 2**16, M_MMAP_THRESHOLD: 2**25, M_TRIM_THRESHOLD: 2**26})
        with suppress(*ABSENT):
            ctypes.CDLL(None).malloc_trim(0)


def _tune(settings: dict[int, int]) -> None:
    with suppress(*ABSENT):
        for name, value in settings.items():
            ctypes.CDLL(None).mallopt(name, value)


def let_go(mapped: mmap.mmap) -> None:
    """Give back the pages of a mapped file, which would count as this process's; who reads it again gets them again."""
    if hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED)
