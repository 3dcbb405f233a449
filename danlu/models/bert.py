"""BERT: one encoder that is BERT or RoBERTa by configuration, with a head for words, classes, token labels or spans, or none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from danlu.base.errors import CheckpointError, RequestError
from danlu.models.base import (
    Family,
    Head,
    HeadKind,
    Inputs,
    Recipe,
    check_sizes,
    choose_size,
    initialise,
    read_activation,
    write_activation,
)
from danlu.models.naming import Names
from danlu.nn.attention import AttentionConfig, LayerCache, Look, Packing, Visible
from danlu.nn.block import Block, BlockConfig
from danlu.nn.feedforward import ACTIVATIONS, FeedForwardConfig
from danlu.nn.linear import Linear, linear
from danlu.nn.norm import NormConfig, make_norm
from danlu.nn.position import positions_of


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """Shape of an encoder. `pooler` turns the first position into one vector for the text; `next_sentence` stands on it."""

    vocabulary_size: int
    context_length: int
    width: int
    num_layers: int
    attention: AttentionConfig
    feedforward: FeedForwardConfig
    norm: NormConfig
    architecture: Literal["bert", "roberta"] = "bert"
    num_segments: int = 2
    pad_id: int = 0
    head: Head | None = None
    pooler: bool = False
    next_sentence: bool = False

    def __post_init__(self) -> None:
        check_sizes(self)

    @property
    def num_answers(self) -> int:
        """Numbers that a head other than that for words gives."""
        return self.head.num_answers if self.head is not None else 0

    @property
    def first_position(self) -> int:
        """RoBERTa counts positions from behind that of padding."""
        return self.pad_id + 1 if self.architecture == "roberta" else 0


class Bert(nn.Module):
    """Read a text or two from both sides; answer at every position, or once.

    Shapes: inputs.tokens (B, T) -> hidden states (B, T, D); logits() maps those to (B, T, V), (B, C), (B, T, C) or (B, T, 2).
    Source: Devlin et al. 2019, arXiv:1810.04805; Liu et al. 2019, arXiv:1907.11692 (RoBERTa).
    """

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.config, width = config, config.width
        self.embedding = nn.Embedding(config.vocabulary_size, width)
        self.position = nn.Embedding(config.context_length + config.first_position, width)
        self.segment = nn.Embedding(config.num_segments, width)
        self.embedding_norm = make_norm(config.norm, width)
        block = BlockConfig(attention=config.attention, feedforward=config.feedforward, norm=config.norm, norm_first=False)
        self.blocks = nn.ModuleList(Block(block, width) for _ in range(config.num_layers))
        kind = config.head.kind if config.head is not None else None
        self.pooler = Linear(width, width) if config.pooler else None
        self.next_sentence = Linear(width, 2) if config.next_sentence else None
        self.words = WordHead(config) if kind == "words" else None
        # RoBERTa's classes have a pooler of their own instead of the model's.
        self.classes_dense = Linear(width, width) if kind == "classes" and config.architecture == "roberta" else None
        self.classes = Linear(width, config.num_answers) if kind == "classes" else None
        self.labels = Linear(width, config.num_answers) if kind == "labels" else None
        self.spans = Linear(width, config.num_answers) if kind == "spans" else None
        initialise(self, 0.02, ())

    def forward(self, inputs: Inputs, cache: Sequence[LayerCache] | None = None) -> Tensor:
        if cache is not None:
            raise RequestError("this model is an encoder: it reads whole texts and does not generate; use embed or its head")
        # Words, positions and segments are added.
        x = self.embedding(inputs.tokens) + self.position(self._positions(inputs))
        x = x + (self.segment.weight[0] if inputs.segments is None else self.segment(inputs.segments))
        x = self.embedding_norm(x)
        look = Look(visible=inputs.visible)
        for block in self.blocks:
            x = block(x, look)
        return x

    def logits(self, hidden: Tensor, visible: Visible = None) -> Tensor:
        """What the head says: words (..., D) -> (..., V), labels and spans (..., D) -> (..., C), classes (B, T, D) -> (B, C)."""
        if self.words is not None:
            return linear(self.words.transformed(hidden), self.embedding.weight, self.words.bias)
        if self.classes is not None:
            return self.classes(self.pooled(hidden, visible))
        each = self.labels or self.spans
        if each is None:
            raise RequestError("this encoder has no head for words, classes, labels or spans; use embed or hidden, or train one for a task")
        return each(hidden)

    def pooled(self, hidden: Tensor, visible: Visible = None) -> Tensor:
        """One vector a text from its first position: tanh(W h + b). Shapes: (B, T, D) -> (B, D)."""
        first = hidden[0, visible.starts] if isinstance(visible, Packing) else hidden[:, 0]
        dense = self.pooler or self.classes_dense
        return first if dense is None else dense(first).tanh()

    def follows(self, hidden: Tensor, visible: Visible = None) -> Tensor:
        """Whether the second text follows the first (0) or is another (1): (B, T, D) -> (B, 2)."""
        assert self.next_sentence is not None
        return self.next_sentence(self.pooled(hidden, visible))

    def _positions(self, inputs: Inputs) -> Tensor:
        given = inputs.visible.positions if isinstance(inputs.visible, Packing) else inputs.positions
        if given is None and self.config.architecture == "roberta":  # padding has a position of its own and is not counted
            real = inputs.tokens != self.config.pad_id
            return real.cumsum(1) * real + self.config.pad_id
        return positions_of(inputs.tokens, given) + self.config.first_position


class WordHead(nn.Module):
    """Before the embedding's transpose scores words: norm(activation(W h + b)); after it a bias for each word."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.activation = ACTIVATIONS["gelu" if config.architecture == "roberta" else config.feedforward.activation]
        self.dense = Linear(config.width, config.width)
        self.norm = make_norm(config.norm, config.width)
        self.bias = nn.Parameter(torch.zeros(config.vocabulary_size))

    def transformed(self, hidden: Tensor) -> Tensor:
        """(..., D) -> (..., D)."""
        return self.norm(self.activation(self.dense(hidden)))


SIZES = {"nano": (2, 128), "tiny": (4, 256), "mini": (6, 384), "small": (8, 512), "base": (12, 768), "large": (24, 1024)}  # layers, width


def size(name: str, vocabulary_size: int, context_length: int | None = None) -> BertConfig:
    """The configuration of bert/NAME: heads of 32 or 64, feed-forward four times as wide, learning words and next sentences."""
    layers, width = choose_size("bert", name, SIZES)
    heads = width // (32 if width < 512 else 64)
    return BertConfig(
        vocabulary_size=vocabulary_size,
        context_length=context_length or (128 if layers < 6 else 512),
        width=width,
        num_layers=layers,
        attention=AttentionConfig.biased(heads, width, causal=False),
        feedforward=FeedForwardConfig(hidden_width=4 * width, activation="gelu", gated=False, bias=True),
        norm=NormConfig(kind="layer", epsilon=1e-12),
        head=Head(kind="words"),
        pooler=True,
        next_sentence=True,
    )


def with_head(config: BertConfig, head: Head) -> BertConfig:
    """The same encoder with another head; classes stand on the pooler, labels and spans on the positions themselves."""
    return replace(config, head=head, pooler=head.kind == "classes" and config.architecture == "bert", next_sentence=False)


def recipe(config: BertConfig, from_scratch: bool) -> Recipe:
    """Masking leaves few targets in a step, so steps hold twice a decoder's tokens; existing weights move gently."""
    rate = 1.5e-3 * (256 / config.width) ** 0.75
    return Recipe(rate=rate if from_scratch else 0.05 * rate, batch_tokens=min(2**18, 2**11 * max(1, config.width // 256) ** 2))


_LAYER = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.output": "attention.output.dense",
    "attention_norm": "attention.output.LayerNorm",
    "feedforward.up": "intermediate.dense",
    "feedforward.down": "output.dense",
    "feedforward_norm": "output.LayerNorm",
}


def _names(prefix: str, heads: Mapping[str, str]) -> Names:
    table = {
        "embedding": "embeddings.word_embeddings",
        "position": "embeddings.position_embeddings",
        "segment": "embeddings.token_type_embeddings",
        "embedding_norm": "embeddings.LayerNorm",
        "pooler": "pooler.dense",
    } | {f"blocks.{{i}}.{own}": f"encoder.layer.{{i}}.{foreign}" for own, foreign in _LAYER.items()}
    ignored = ("embeddings.position_ids", "decoder.weight", "decoder.bias")
    return Names(table={own: prefix + foreign for own, foreign in table.items()} | dict(heads), prefix=prefix, ignored=ignored)


BERT = _names(
    "bert.",
    {
        "words.dense": "cls.predictions.transform.dense",
        "words.norm": "cls.predictions.transform.LayerNorm",
        "words.bias": "cls.predictions.bias",
        "next_sentence": "cls.seq_relationship",
        "classes": "classifier",
        "labels": "classifier",
        "spans": "qa_outputs",
    },
)
ROBERTA = _names(
    "roberta.",
    {
        "words.dense": "lm_head.dense",
        "words.norm": "lm_head.layer_norm",
        "words.bias": "lm_head.bias",
        "classes_dense": "classifier.dense",
        "classes": "classifier.out_proj",
        "labels": "classifier",
        "spans": "qa_outputs",
    },
)
ARCHITECTURES: dict[str, HeadKind | None] = {
    "ForPreTraining": "words",
    "ForMaskedLM": "words",
    "ForSequenceClassification": "classes",
    "ForTokenClassification": "labels",
    "ForQuestionAnswering": "spans",
    "Model": None,
}
FORMAL = {"bert": "Bert", "roberta": "Roberta"}


def read_config(raw: Mapping[str, Any]) -> BertConfig:
    """Understand a Hugging Face config.json of BERT or RoBERTa."""
    kind, tensors = raw["model_type"], raw["tensors"]
    if raw.get("position_embedding_type", "absolute") != "absolute" or raw.get("is_decoder") or raw.get("add_cross_attention"):
        raise CheckpointError(f"the {kind} came with relative positions or as a decoder; this version knows encoders with absolute ones")
    named = str((raw.get("architectures") or [f"{FORMAL[kind]}Model"])[0]).removeprefix(FORMAL[kind])
    if named not in ARCHITECTURES:
        raise CheckpointError(
            f"the {kind} came as {FORMAL[kind]}{named}; known are {', '.join(FORMAL[kind] + each for each in ARCHITECTURES)}"
        )
    answers, pad = ARCHITECTURES[named], raw.get("pad_token_id") or 0
    return BertConfig(
        architecture=kind,
        vocabulary_size=raw["vocab_size"],
        context_length=raw["max_position_embeddings"] - (pad + 1 if kind == "roberta" else 0),
        width=raw["hidden_size"],
        num_layers=raw["num_hidden_layers"],
        attention=AttentionConfig.biased(raw["num_attention_heads"], raw["hidden_size"], causal=False),
        feedforward=FeedForwardConfig(
            hidden_width=raw["intermediate_size"], activation=read_activation(raw.get("hidden_act", "gelu")), gated=False, bias=True
        ),
        norm=NormConfig(kind="layer", epsilon=raw.get("layer_norm_eps", 1e-12)),
        num_segments=raw["type_vocab_size"],
        pad_id=pad,
        head=None if answers is None else Head.read(answers, raw),
        # Folders hold more or less than their class says: the tensors decide.
        pooler=any(name.endswith("pooler.dense.weight") for name in tensors),
        next_sentence="cls.seq_relationship.weight" in tensors,
    )


def write_config(config: BertConfig) -> dict[str, Any]:
    """The config.json with which transformers computes the same."""
    answers = config.head.kind if config.head is not None else None
    named = "ForPreTraining" if config.next_sentence else next(name for name, kind in reversed(ARCHITECTURES.items()) if kind == answers)
    return {
        "model_type": config.architecture,
        "architectures": [FORMAL[config.architecture] + named],
        "vocab_size": config.vocabulary_size,
        "max_position_embeddings": config.context_length + config.first_position,
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.attention.num_heads,
        "intermediate_size": config.feedforward.hidden_width,
        "hidden_act": write_activation(config.feedforward.activation),
        "layer_norm_eps": config.norm.epsilon,
        "type_vocab_size": config.num_segments,
        "pad_token_id": config.pad_id,
        "tie_word_embeddings": True,
        "dtype": "float32",
        **(config.head.write() if config.head is not None else {}),
    }


FAMILY = Family(
    name="bert",
    pretraining="masked-words",
    tokenizer="wordpiece",
    sizes=size,
    recipe=recipe,
    build=Bert,
    with_head=with_head,
    packs=True,
    memory="none",
    model_types=("bert", "roberta"),
    names=lambda config: ROBERTA if config.architecture == "roberta" else BERT,
    read_config=read_config,
    write_config=write_config,
)
