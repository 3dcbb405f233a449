from __future__ import annotations

from pathlib import Path

from .mutants import run


def test_damaged_files_are_read_or_refused(tmp_path: Path) -> None:
    """The quick part; `python -m tests.faults.mutants` tries ten thousand."""
    found = run(160, tmp_path, seed=1)
    assert all(sum(each.values()) == 20 for each in found.values())
    assert all(each["refused"] for each in found.values())
    assert sum(each["loaded"] for each in found.values()) > 10
