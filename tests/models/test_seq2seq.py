from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from danlu.base.storage import whole_folder
from danlu.models.loading import load_model, save_model

from .shapes import SEQ2SEQS, distance, foreign_logits, make_foreign, own_logits, some_ids


@pytest.mark.parametrize("name", SEQ2SEQS)
def test_logits_equal_those_of_transformers_and_do_so_again_after_saving(name: str, tmp_path: Path) -> None:
    foreign = make_foreign(name)
    foreign.save_pretrained(tmp_path / "theirs")
    loaded = load_model(str(tmp_path / "theirs"))
    ids, source = some_ids(97, length=19), some_ids(97, length=23)
    expected = foreign_logits(foreign, ids, source)
    assert distance(own_logits(loaded.module, ids, source), expected) < 1e-4

    with whole_folder(tmp_path / "ours") as folder:
        save_model(loaded.module, loaded.family, None, folder)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "ours", dtype=torch.float32).eval()
    assert type(again) is type(foreign)
    assert distance(foreign_logits(again, ids, source), expected) < 1e-5
