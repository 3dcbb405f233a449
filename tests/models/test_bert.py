from __future__ import annotations

from pathlib import Path

import pytest
import torch

from danlu.base.storage import whole_folder
from danlu.models.loading import load_model, save_model

from .shapes import ENCODERS, class_of, distance, foreign_logits, make_foreign, own_logits, some_ids


@pytest.mark.parametrize("name", ENCODERS)
def test_answers_equal_those_of_transformers_and_do_so_again_after_saving(name: str, tmp_path: Path) -> None:
    foreign = make_foreign(name)
    foreign.save_pretrained(tmp_path / "theirs")
    loaded = load_model(str(tmp_path / "theirs"))
    ids = some_ids(loaded.config.vocabulary_size)  # some are the padding token, which RoBERTa does not count
    expected = foreign_logits(foreign, ids)
    assert distance(own_logits(loaded.module, ids), expected) < 1e-4

    with whole_folder(tmp_path / "ours") as folder:
        save_model(loaded.module, loaded.family, None, folder)
    again, told = class_of(ENCODERS[name]).from_pretrained(tmp_path / "ours", dtype=torch.float32, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"]
    assert distance(foreign_logits(again.eval(), ids), expected) < 1e-5
    assert again.config.id2label == foreign.config.id2label
