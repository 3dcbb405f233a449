"""Encoder-decoder: one model that is T5, BART or Marian by configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from danlu.base.errors import CheckpointError, RequestError
from danlu.models.base import (
    Family,
    Inputs,
    Recipe,
    check_sizes,
    choose_size,
    initialise,
    positions_of,
    read_activation,
    words_only,
    write_activation,
)
from danlu.models.naming import Names
from danlu.nn.attention import Attention, AttentionConfig, KeyValue, LayerCache, Look, lean
from danlu.nn.block import Block, BlockConfig
from danlu.nn.feedforward import FeedForwardConfig
from danlu.nn.norm import NormConfig, make_norm
from danlu.nn.position import RelativePositions, sinusoids


@dataclass(frozen=True, kw_only=True)
class StackConfig:
    """The layers of one side."""

    num_layers: int
    attention: AttentionConfig
    feedforward: FeedForwardConfig


@dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig:
    """Shape of an encoder-decoder. The architecture tells its positions: T5 relative, BART learned, Marian sinusoidal.

    The decoder begins each text with `start_id`; `num_buckets` and `farthest` are T5's distances.
    """

    architecture: Literal["t5", "mt5", "bart", "marian"]
    vocabulary_size: int
    context_length: int
    width: int
    encoder: StackConfig
    decoder: StackConfig
    norm: NormConfig
    start_id: int
    pad_id: int
    num_buckets: int = 32
    farthest: int = 128
    embedding_scale: float = 1.0
    logits_scale: float = 1.0
    tied: bool = True  # the output layer is the embedding

    def __post_init__(self) -> None:
        check_sizes(self)

    num_layers = property(lambda self: self.decoder.num_layers)  # those with a cache
    num_kv_heads = property(lambda self: self.decoder.attention.num_kv_heads)
    head_dim = property(lambda self: self.decoder.attention.head_dim)
    relative = property(lambda self: self.architecture in ("t5", "mt5"))


class Seq2Seq(nn.Module):
    """Read a source from both sides, then write a target token by token, looking at both.

    Shapes: inputs.source (B, S), inputs.tokens (B, T) -> hidden states (B, T, D); logits() maps those to (B, T, V).
    Source: Vaswani et al. 2017, arXiv:1706.03762; Raffel et al. 2020, arXiv:1910.10683 (T5); Lewis et al. 2020, arXiv:1910.13461 (BART).
    """

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary_size, config.width)
        self.encoder, self.decoder = Stack(config, decodes=False), Stack(config, decodes=True)
        self.head = None if config.tied else nn.Linear(config.width, config.vocabulary_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(1, config.vocabulary_size)) if config.architecture in ("bart", "marian") else None
        self.initialise()

    def forward(self, inputs: Inputs, cache: Sequence[LayerCache] | None = None, read: Sequence[KeyValue] | None = None) -> Tensor:
        """`read` is what `read_source` made of the source; without it the source is read anew."""
        x = self.embedding(inputs.tokens) * self.config.embedding_scale
        seen = Look(visible=inputs.source_visible)
        return self.decoder(x, inputs.positions, inputs.visible, cache, self.read_source(inputs) if read is None else read, seen)

    def read_source(self, inputs: Inputs) -> list[KeyValue]:
        """Keys and values of the source for every layer of the decoder: each (B, H, S, E)."""
        if inputs.source is None:
            raise RequestError(
                "this model is an encoder-decoder; expected a source to read beside the tokens to go on from", param="source"
            )
        x = self.embedding(inputs.source) * self.config.embedding_scale
        states = self.encoder(x, None, inputs.source_visible)
        return [cross.read(states) for cross in self.decoder.crosses()]

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of every vocabulary entry: (..., D) -> (..., V)."""
        weight = self.embedding.weight if self.head is None else self.head.weight
        scores = nn.functional.linear(hidden * self.config.logits_scale, weight)
        return scores if self.bias is None else scores + self.bias[0]

    def initialise(self) -> None:
        """As initialise(); T5's queries start smaller, since its scores are not divided by sqrt(head_dim)."""
        depth = self.config.encoder.num_layers + self.config.decoder.num_layers
        initialise(self, self.config.width**-0.5 / math.sqrt(depth), ("output.weight", "down.weight"), std=self.config.width**-0.5)
        for name, parameter in self.named_parameters():
            if not parameter.is_meta and self.config.relative:
                if name.endswith("query.weight"):
                    nn.init.normal_(parameter, std=(self.config.width * self.head_dim_of(name)) ** -0.5)
                elif name == "embedding.weight":
                    nn.init.normal_(parameter, std=0.3)

    def head_dim_of(self, name: str) -> int:
        """head_dim of the side that a parameter belongs to."""
        return (self.config.decoder if name.startswith("decoder.") else self.config.encoder).attention.head_dim


class Stack(nn.Module):
    """One side: positions, layers, and what its architecture normalises before or after them.

    Shapes: x (B, T, D) -> (B, T, D).
    """

    def __init__(self, config: Seq2SeqConfig, decodes: bool) -> None:
        super().__init__()
        self.decodes, self.architecture, self.context_length = decodes, config.architecture, config.context_length
        side = config.decoder if decodes else config.encoder
        self.relative = (
            RelativePositions(side.attention.num_heads, config.num_buckets, config.farthest, causal=decodes) if config.relative else None
        )
        self.position = nn.Embedding(config.context_length + BART_SHIFT, config.width) if config.architecture == "bart" else None
        self.embedding_norm = make_norm(config.norm, config.width) if config.architecture == "bart" else None
        block = BlockConfig(
            attention=side.attention,
            feedforward=side.feedforward,
            norm=config.norm,
            norm_first=config.relative,
            cross=replace(side.attention, causal=False) if decodes else None,
        )
        self.blocks = nn.ModuleList(Block(block, config.width) for _ in range(side.num_layers))
        self.norm = make_norm(config.norm, config.width) if config.relative else None

    def forward(
        self,
        x: Tensor,
        positions: Tensor | None,
        visible: Any,
        cache: Sequence[LayerCache] | None = None,
        read: Sequence[KeyValue] | None = None,
        source_look: Look | None = None,
    ) -> Tensor:
        places = positions_of(x[..., 0], positions)  # (B or 1, T)
        if self.position is not None:
            x = x + self.position(places + BART_SHIFT)
        elif self.architecture == "marian":
            x = x + sinusoids(places, x.shape[-1]).to(x)
        if self.embedding_norm is not None:
            x = self.embedding_norm(x)
        look = Look(visible=visible)
        if self.relative is not None:
            # In a cache, a key's column is its position.
            columns = visible.shape[-1] if visible is not None else int(places.max()) + 1
            keys = torch.arange(columns, device=x.device)[None] if cache is not None else places
            new_only = visible is None and cache is not None and x.shape[1] == 1
            look = Look(bias=lean(self.relative(places, keys), visible, causal=self.decodes and not new_only))
        for index, block in enumerate(self.blocks):
            x = block(x, look, None if cache is None else cache[index], None if read is None else read[index], source_look)
        return x if self.norm is None else self.norm(x)

    def crosses(self) -> list[Attention]:
        """The decoder's attention to the source, layer by layer."""
        return [part for part in (block.cross for block in self.blocks) if isinstance(part, Attention)]


BART_SHIFT = 2  # the first rows of BART's positions were meant for padding

SIZES = {
    "nano": (2, 128),
    "tiny": (3, 256),
    "mini": (4, 384),
    "small": (8, 512),
    "base": (12, 768),
    "large": (24, 1024),
}  # layers a side, width


def size(name: str, vocabulary_size: int, context_length: int | None = None) -> Seq2SeqConfig:
    """The configuration of seq2seq/NAME: heads of 64, T5's architecture with gated GELU (version 1.1)."""
    layers, width = choose_size("seq2seq", name, SIZES)
    heads = width // 64
    attention = AttentionConfig(num_heads=heads, num_kv_heads=heads, head_dim=64, causal=False, scaled=False)
    feedforward = FeedForwardConfig(hidden_width=math.ceil(width * 8 / 3 / 64) * 64, activation="gelu_tanh", gated=True)
    return Seq2SeqConfig(
        architecture="t5",
        vocabulary_size=vocabulary_size,
        context_length=context_length or 512,
        width=width,
        encoder=StackConfig(num_layers=layers, attention=attention, feedforward=feedforward),
        decoder=StackConfig(num_layers=layers, attention=replace(attention, causal=True), feedforward=feedforward),
        norm=NormConfig(kind="rms", epsilon=1e-6),
        start_id=0,
        pad_id=0,
        logits_scale=width**-0.5,
    )


def recipe(config: Seq2SeqConfig, from_scratch: bool) -> Recipe:
    """As a decoder's, with twice its tokens a step, since few of them are targets."""
    rate = 2e-3 * (256 / config.width) ** 0.75
    return Recipe(rate=rate if from_scratch else 0.1 * rate, batch_tokens=min(2**18, 2**11 * max(1, config.width // 256) ** 2))


def _both(encoder: Mapping[str, str], decoder: Mapping[str, str], own_and_foreign: Mapping[str, str], layers: str) -> dict[str, str]:
    """A table for both sides from the parts of a layer; `layers` is what layers are called there."""
    sides = (("encoder", encoder), ("decoder", decoder))
    parts = {f"{side}.blocks.{{i}}.{own}": f"{side}.{layers}.{{i}}.{foreign}" for side, table in sides for own, foreign in table.items()}
    return parts | {f"{side}.{own}": f"{side}.{foreign}" for side, _ in sides for own, foreign in own_and_foreign.items()}


def _attention(own: str, foreign: str, endings: Sequence[str]) -> dict[str, str]:
    return {f"{own}.{part}": f"{foreign}.{ending}" for part, ending in zip(("query", "key", "value", "output"), endings, strict=True)}


def _t5_names(gated: bool) -> Names:
    inner = {"gate": "wi_0", "up": "wi_1", "down": "wo"} if gated else {"up": "wi", "down": "wo"}
    looks = _attention("attention", "layer.0.SelfAttention", "qkvo") | {"attention_norm": "layer.0.layer_norm"}
    crosses = _attention("cross", "layer.1.EncDecAttention", "qkvo") | {"cross_norm": "layer.1.layer_norm"}
    thinks = [
        {f"feedforward.{own}": f"layer.{i}.DenseReluDense.{foreign}" for own, foreign in inner.items()}
        | {"feedforward_norm": f"layer.{i}.layer_norm"}
        for i in (1, 2)
    ]
    once = {"norm": "final_layer_norm", "relative.bias": "block.0.layer.0.SelfAttention.relative_attention_bias"}
    table = _both(looks | thinks[0], looks | crosses | thinks[1], once, "block")
    return Names(table=table | {"embedding": "shared", "head": "lm_head"}, ignored=("embed_tokens.weight", "lm_head.weight"))


def _bart_names() -> Names:
    projections = ("q_proj", "k_proj", "v_proj", "out_proj")
    looks = _attention("attention", "self_attn", projections) | {"attention_norm": "self_attn_layer_norm"}
    crosses = _attention("cross", "encoder_attn", projections) | {"cross_norm": "encoder_attn_layer_norm"}
    thinks = {"feedforward.up": "fc1", "feedforward.down": "fc2", "feedforward_norm": "final_layer_norm"}
    once = {"position": "embed_positions", "embedding_norm": "layernorm_embedding"}
    table = {own: f"model.{foreign}" for own, foreign in _both(looks | thinks, looks | crosses | thinks, once, "layers").items()}
    ignored = ("embed_tokens.weight", "lm_head.weight", "embed_positions.weight")
    return Names(table=table | {"embedding": "model.shared", "bias": "final_logits_bias"}, prefix="model.", ignored=ignored)


def names(config: Seq2SeqConfig) -> Names:
    """How Hugging Face folders of this architecture call the weights."""
    return _t5_names(config.encoder.feedforward.gated) if config.relative else _bart_names()


FORMAL = {
    "t5": "T5ForConditionalGeneration",
    "mt5": "MT5ForConditionalGeneration",
    "bart": "BartForConditionalGeneration",
    "marian": "MarianMTModel",
}


def read_config(raw: Mapping[str, Any]) -> Seq2SeqConfig:
    """Understand a Hugging Face config.json of T5, BART or Marian."""
    kind, width = raw["model_type"], raw["d_model"]
    shared: dict[str, Any] = {
        "architecture": kind,
        "vocabulary_size": raw["vocab_size"],
        "width": width,
        "start_id": raw.get("decoder_start_token_id", 0),
        "pad_id": raw.get("pad_token_id", 0),
    }
    if kind in ("t5", "mt5"):
        *gate, activation = str(raw.get("feed_forward_proj", "relu" if kind == "t5" else "gated-gelu")).split("-")
        activation = "gelu_new" if gate and activation == "gelu" else activation  # so say T5's own weights
        feedforward = FeedForwardConfig(hidden_width=raw["d_ff"], activation=read_activation(activation), gated=bool(gate))
        attention = AttentionConfig(
            num_heads=raw["num_heads"], num_kv_heads=raw["num_heads"], head_dim=raw["d_kv"], causal=False, scaled=False
        )  # fmt: skip
        decoder_layers = raw.get("num_decoder_layers") or raw["num_layers"]
        apart = raw.get("tie_word_embeddings") is False  # T5 1.1 says so where the output layer is its own
        scaled = kind == "t5" and raw.get("scale_decoder_outputs", not apart)
        return Seq2SeqConfig(
            **shared,
            context_length=raw.get("n_positions", 512),
            encoder=StackConfig(num_layers=raw["num_layers"], attention=attention, feedforward=feedforward),
            decoder=StackConfig(num_layers=decoder_layers, attention=replace(attention, causal=True), feedforward=feedforward),
            norm=NormConfig(kind="rms", epsilon=raw.get("layer_norm_epsilon", 1e-6)),
            num_buckets=raw.get("relative_attention_num_buckets", 32),
            farthest=raw.get("relative_attention_max_distance", 128),
            logits_scale=width**-0.5 if scaled else 1.0,
            tied=not (apart and "lm_head.weight" in raw["tensors"]),
        )
    if raw.get("share_encoder_decoder_embeddings") is False or raw.get("tie_word_embeddings") is False:
        raise CheckpointError(f"the {kind} came with an embedding for each side; this version knows one that both share")

    def side(name: str, causal: bool) -> StackConfig:
        heads = raw[f"{name}_attention_heads"]
        bias = {"input_bias": True, "output_bias": True}
        return StackConfig(
            num_layers=raw[f"{name}_layers"],
            attention=AttentionConfig(num_heads=heads, num_kv_heads=heads, head_dim=width // heads, causal=causal, **bias),
            feedforward=FeedForwardConfig(
                hidden_width=raw[f"{name}_ffn_dim"], activation=read_activation(raw["activation_function"]), gated=False, bias=True
            ),
        )

    return Seq2SeqConfig(
        **shared,
        context_length=raw["max_position_embeddings"],
        encoder=side("encoder", causal=False),
        decoder=side("decoder", causal=True),
        norm=NormConfig(kind="layer", epsilon=1e-5),
        embedding_scale=math.sqrt(width) if raw.get("scale_embedding") else 1.0,
    )


def write_config(config: Seq2SeqConfig) -> dict[str, Any]:
    """The config.json with which transformers computes the same."""
    encoder, decoder = config.encoder, config.decoder
    activation = write_activation(encoder.feedforward.activation)
    said = {
        "model_type": config.architecture,
        "architectures": [FORMAL[config.architecture]],
        "is_encoder_decoder": True,
        "vocab_size": config.vocabulary_size,
        "d_model": config.width,
        "decoder_start_token_id": config.start_id,
        "pad_token_id": config.pad_id,
        "dtype": "float32",
    }
    if config.relative:
        gated = encoder.feedforward.gated
        return said | {
            "d_kv": encoder.attention.head_dim,
            "d_ff": encoder.feedforward.hidden_width,
            "num_heads": encoder.attention.num_heads,
            "num_layers": encoder.num_layers,
            "num_decoder_layers": decoder.num_layers,
            "n_positions": config.context_length,
            "relative_attention_num_buckets": config.num_buckets,
            "relative_attention_max_distance": config.farthest,
            "layer_norm_epsilon": config.norm.epsilon,
            "feed_forward_proj": f"gated-{activation}".replace("gelu_new", "gelu") if gated else activation,
            "tie_word_embeddings": config.tied and (config.logits_scale != 1.0 or config.architecture == "mt5"),
        }
    sides = {
        f"{name}_{key}": value
        for name, side in (("encoder", encoder), ("decoder", decoder))
        for key, value in (
            ("layers", side.num_layers),
            ("attention_heads", side.attention.num_heads),
            ("ffn_dim", side.feedforward.hidden_width),
        )
    }
    return said | sides | {
        "max_position_embeddings": config.context_length,
        "activation_function": activation,
        "scale_embedding": config.embedding_scale != 1.0,
        "tie_word_embeddings": True,
    }  # fmt: skip


FAMILY = Family(
    name="seq2seq",
    pretraining="span-corruption",
    tokenizer="unigram",
    sizes=size,
    recipe=recipe,
    build=Seq2Seq,
    with_head=words_only,
    packs=False,
    memory="keys",
    model_types=("t5", "mt5", "bart", "marian"),
    names=names,
    read_config=read_config,
    write_config=write_config,
)
