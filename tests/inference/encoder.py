"""A small random encoder with a WordPiece tokenizer, made and saved by transformers, and sentence-transformers' files beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, BertConfig, BertModel

from danlu.inputs.tokenizer import Tokenizer
from danlu.inputs.vocabulary_training import train_wordpiece

from .tiny import TEXTS

LONGEST = 24
SENTENCES = ["The river", "大模型是一种强大的技术", "", "one two three", "Hello world! " * 3, "old mountain", "THE RIVER", "[SEP] 😀"]
POOLED = ("Transformer", "Pooling", "Normalize")


@cache
def wordpiece() -> Tokenizer:
    return train_wordpiece(TEXTS * 20, vocabulary_size=200)


def write_encoder(folder: Path, pooling: Mapping[str, Any] | None = None, modules: tuple[str, ...] = POOLED, **text: Any) -> Path:
    """Save the model; `pooling` and `text` are what the files say of pooling and of texts. Without `pooling` there are no such files."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=wordpiece().vocabulary_size,
        hidden_size=32,
        intermediate_size=56,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=40,
    )
    model = BertModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    wordpiece().save(folder)
    if pooling is not None:
        places = {"Transformer": "", "Pooling": "1_Pooling"}
        said = [{"type": f"sentence_transformers.models.{kind}", "path": places.get(kind, f"9_{kind}")} for kind in modules]
        (folder / "1_Pooling").mkdir()
        write_json(folder / "modules.json", said)
        write_json(folder / "1_Pooling" / "config.json", pooling)
        write_json(folder / "sentence_bert_config.json", {"max_seq_length": LONGEST, "do_lower_case": False} | text)
    return folder


def write_json(file: Path, content: Any) -> None:
    file.write_text(json.dumps(content), "utf-8")


@torch.inference_mode()
def foreign_states(folder: Path, texts: list[str], longest: int | None = None) -> list[Tensor]:
    """Last hidden states (T, D) of each text by transformers, one text at a time."""
    model, tokenizer = BertModel.from_pretrained(folder, dtype=torch.float32).eval(), AutoTokenizer.from_pretrained(folder)
    found = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt", truncation=longest is not None, max_length=longest, split_special_tokens=True)
        found.append(model(**ids).last_hidden_state[0])
    return found
