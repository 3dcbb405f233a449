from __future__ import annotations

from pathlib import Path

from .rot import heal, rot, rot_of_final
from .small_run import SmallRun


def test_damage_is_found_before_use(tmp_path: Path) -> None:
    """The quick part; `python -m tests.faults.rot` tries 1,200."""
    small = SmallRun(tmp_path)
    found = rot(small, 60, 12, seed=1)
    assert sum(found.values()) == 72
    assert {"manifest.json", "model.safetensors", "training/optimizer.safetensors", "training/state.json"} <= set(found)
    assert heal(small) == len(found)
    loaded = rot_of_final(small, 60, seed=1)
    assert sum(loaded.values()) >= 45
    assert {"config.json", "manifest.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} == set(loaded)
