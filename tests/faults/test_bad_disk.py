from __future__ import annotations

import pytest

from .child import NO_STRACE, STRACE
from .full_disk import NO_MOUNT, can_mount
from .script import outcome_of


@pytest.mark.skipif(STRACE is None, reason=NO_STRACE)
def test_a_disk_that_fails_is_told_and_costs_only_what_was_not_saved() -> None:
    """The quick part; `python -m tests.faults.bad_disk` lets every call fail."""
    found = outcome_of("bad_disk", "3")
    assert found["checkpoint, EIO at fsync"] == {"refused": 6}
    assert found["final, EIO at fsync"] == {"refused": 6}
    assert "Input/output error" in found["a disk that fails from the start"]
    assert len(found["a disk that fails for a while"]) >= 2


@pytest.mark.skipif(not can_mount(), reason=NO_MOUNT)
def test_training_outlives_a_full_disk() -> None:
    """The quick part; `python -m tests.faults.full_disk` also leaves it full to the end."""
    assert len(outcome_of("full_disk", "--first")["room-again"]) >= 2
