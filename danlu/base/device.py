"""What this machine computes with, and in which numbers."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from typing import Literal

import torch

from danlu.base.errors import ConfigError

Precision = Literal["float32", "bfloat16"]


def choose_device() -> torch.device:
    """An accelerator if torch sees one, else the processor."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def choose_precision(wish: str, device: torch.device) -> tuple[Precision, str]:
    """The numbers that matrix products are made in, and why: bfloat16 only where the hardware multiplies it.

    Raises: ConfigError if the wish is none of auto, float32, bfloat16.
    """
    if wish == "auto":
        if device.type == "cuda":
            fits = torch.cuda.is_bf16_supported()
            return ("bfloat16", "the accelerator multiplies it") if fits else ("float32", "the accelerator does not multiply bfloat16")
        if torch.cpu._is_amx_tile_supported():
            return "bfloat16", "this processor multiplies it in tiles (AMX), several times as fast as float32"
        if torch.cpu._is_avx512_bf16_supported():
            return "bfloat16", "this processor multiplies it (AVX-512 BF16), two to four times as fast as float32"
        return "float32", "this processor has no fast bfloat16"
    if wish not in ("float32", "bfloat16"):
        raise ConfigError(f"--precision came as {wish!r}; expected auto, float32 or bfloat16")
    return wish, "as asked"  # type: ignore[return-value]


def computing_in(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Products in `precision`, while weights and sums stay float32."""
    return torch.autocast(device.type, dtype=torch.bfloat16) if precision == "bfloat16" else nullcontext()


def set_threads(threads: int | None) -> None:
    """Compute with so many threads.

    Raises: ConfigError if that is no sensible number.
    """
    if threads is None:
        return
    if not 1 <= threads <= 1024:
        raise ConfigError(f"threads came as {threads}; expected 1 to 1024, best the number of cores")
    torch.set_num_threads(threads)


def lone_threads() -> ThreadPoolExecutor:
    """As many threads as torch computes with, each of which computes by itself: work that falls into equal parts goes faster so.

    Threads that share every product wait for each other at its end, which on a busy machine takes longer than the product.
    """
    count = torch.get_num_threads()
    pool, all_here = ThreadPoolExecutor(count), threading.Barrier(count)

    def stand_alone(_: int) -> None:
        torch.get_num_threads()  # a new thread takes over the common number when it first needs it: now, not later
        torch.set_num_threads(1)
        all_here.wait()

    list(pool.map(stand_alone, range(count)))
    torch.set_num_threads(count)  # the common number was changed too
    return pool
