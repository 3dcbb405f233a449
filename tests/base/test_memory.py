from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import psutil
import pytest
import torch

from danlu.base import memory as tuning
from danlu.base.memory import memory, memory_kept, memory_returned, zeros

MB = 2**20


def test_there_is_no_more_to_be_had_than_there_is() -> None:
    free, whole = memory()
    assert 0 <= free <= whole and whole > 100 * MB


@pytest.mark.parametrize("huge", [False, True])
def test_memory_is_taken_as_it_is_written_to_and_goes_with_its_last_tensor(huge: bool) -> None:
    process = psutil.Process()
    before = process.memory_info().rss
    room = zeros(256 * MB, huge)
    assert room.dtype == torch.uint8 and room.shape == (256 * MB,)
    assert process.memory_info().rss - before < 32 * MB
    part = room[64 * MB : 128 * MB].view(torch.float32)
    assert not part[:1000].any()
    part.fill_(1.5)
    assert 60 * MB < process.memory_info().rss - before < 100 * MB
    del room
    assert part[-1] == 1.5
    del part
    gc.collect()
    assert process.memory_info().rss - before < 32 * MB


def test_nothing_is_a_size_too() -> None:
    assert zeros(0, huge=True).shape == (0,)


def test_what_threads_freed_is_given_back() -> None:
    process, left = psutil.Process(), list[int]()
    for _ in range(5):  # the system counts pages by and by: the best of five
        with memory_returned(), ThreadPoolExecutor(2) as threads:
            before = process.memory_info().rss
            sums = list(threads.map(lambda size: float(np.ones(size * MB // 8).sum()), [24, 12, 6, 3] * 4))
            left.append(process.memory_info().rss - before)
        assert sums == [size * MB // 8 for size in [24, 12, 6, 3] * 4]
    assert min(left) < 8 * MB  # without it 40 and more


@pytest.mark.parametrize("inner", [memory_returned, memory_kept])
def test_what_is_tuned_outside_holds_again_behind_what_is_tuned_inside(inner: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = list[dict[int, int]]()
    monkeypatch.setattr(tuning, "_tune", tuned.append)
    with memory_kept():
        kept = tuned[-1]
        with inner():
            pass
        assert tuned[-1] == kept
    assert tuned[-1] != kept and not tuning._open


def test_who_opened_first_may_leave_first(monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = list[dict[int, int]]()
    monkeypatch.setattr(tuning, "_tune", tuned.append)
    first, second = memory_kept(), memory_returned()
    first.__enter__()
    second.__enter__()
    returned = tuned[-1]
    first.__exit__(None, None, None)
    assert tuned[-1] == returned
    second.__exit__(None, None, None)
    assert tuned[-1] != returned and not tuning._open
