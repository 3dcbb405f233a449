from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from danlu.base.device import lone_threads, set_threads
from danlu.base.errors import ConfigError


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_lone_threads_compute_by_themselves_and_nobody_else_does() -> None:
    set_threads(3)
    with lone_threads() as pool:
        gate = threading.Barrier(3)

        def count(_: int) -> tuple[int, int]:
            gate.wait(10)  # each on a thread of its own
            return threading.get_ident(), torch.get_num_threads()

        found = list(pool.map(count, range(3)))
    assert len({thread for thread, _ in found}) == 3 and {threads for _, threads in found} == {1}
    new: list[int] = []
    thread = threading.Thread(target=lambda: new.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert torch.get_num_threads() == 3 and new == [3]


def test_no_sensible_number_of_threads_is_refused() -> None:
    for count in (0, -1, 1025):
        with pytest.raises(ConfigError, match=f"threads came as {count}"):
            set_threads(count)
