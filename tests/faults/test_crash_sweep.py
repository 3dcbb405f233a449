from __future__ import annotations

import pytest

from .child import NO_STRACE, STRACE
from .script import outcome_of


@pytest.mark.skipif(STRACE is None, reason=NO_STRACE)
def test_a_kill_leaves_the_old_or_the_new() -> None:
    """The quick part; `python -m tests.faults.crash_sweep` crashes at every call."""
    found = outcome_of("crash_sweep", "20")
    assert found["points"] == 20
    assert sum(found["calls"].values()) >= 200
    assert found["newest afterwards"]["old"] >= 5
    assert found["newest afterwards"]["new"] >= 5
