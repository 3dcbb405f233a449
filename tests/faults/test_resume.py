from __future__ import annotations

from .script import outcome_of


def test_killed_at_any_step_and_gone_on_is_the_same_to_the_bit() -> None:
    """The quick part; `python -m tests.faults.resume` kills 20 of 200 steps, and stops 10."""
    found = outcome_of("resume", "3", "0", "45")
    assert len(found["killed after"]) == 3
    assert max(found["killed after"]) > found["steps an epoch"]
