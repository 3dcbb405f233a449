"""A small random model with a real tokenizer and chat template, as a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import AddedToken

from danlu.base.storage import whole_folder
from danlu.inputs.tokenizer import Tokenizer
from danlu.inputs.vocabulary_training import train_bpe
from danlu.models.gpt import FAMILY, GPT, GPTConfig
from danlu.models.loading import save_model
from danlu.nn.attention import AttentionConfig
from danlu.nn.feedforward import FeedForwardConfig
from danlu.nn.norm import NormConfig
from danlu.nn.position import RotaryConfig

CONTEXT = 320
TEXTS = [
    "The river and the mountain are old. ",
    "大模型是一种强大的技术，丹炉里炼出来的。",
    "Hello 😀 world! 🐉 ",
    "one two three four five six ",
]
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_tokenizer(template: str | None = TEMPLATE) -> Tokenizer:
    """Byte-level BPE over a few sentences, with the control tokens of ChatML."""
    raw = train_bpe(TEXTS * 20, vocabulary_size=330).raw
    raw.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in ("<|im_start|>", "<|im_end|>")])
    settings = {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}
    return Tokenizer(raw, settings | ({"chat_template": template} if template else {}))


def tiny_module(vocabulary_size: int, seed: int = 0, head_dim: int = 16, tied: bool = True) -> GPT:
    """Two layers with grouped heads; weights wide enough that no two logits come near each other."""
    torch.manual_seed(seed)
    config = GPTConfig(
        vocabulary_size=vocabulary_size,
        context_length=CONTEXT,
        width=32,
        num_layers=2,
        attention=AttentionConfig(num_heads=4, num_kv_heads=2, head_dim=head_dim, query_key_norm=True),
        feedforward=FeedForwardConfig(hidden_width=64),
        norm=NormConfig(kind="rms", epsilon=1e-6),
        rotary=RotaryConfig(base=10_000.0),
        tied=tied,
    )
    module = GPT(config)
    for weight in module.parameters():
        if weight.dim() > 1:
            torch.nn.init.normal_(weight, std=0.3)
    return module.eval()


def write_tiny(folder: Path, seed: int = 0, tokenizer: Tokenizer | None = None, with_tokenizer: bool = True) -> Path:
    """Save the model; return its folder."""
    tokenizer = tokenizer or tiny_tokenizer()
    with whole_folder(folder) as place:
        save_model(tiny_module(tokenizer.vocabulary_size, seed), FAMILY, tokenizer if with_tokenizer else None, place)
    return folder
