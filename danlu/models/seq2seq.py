"""Encoder-decoder: one model that is T5, BART or Marian by configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    read_activation,
    words_only,
    write_activation,
)
from danlu.models.naming import Names
from danlu.nn.attention import AttentionConfig, KeyValue, LayerCache, Look
from danlu.nn.block import BlockConfig
from danlu.nn.feedforward import FeedForwardConfig
from danlu.nn.linear import Linear, linear
from danlu.nn.norm import NormConfig
from danlu.nn.stack import Stack, StackConfig


@dataclass(frozen=True, kw_only=True)
class Seq2SeqConfig:
    """Shape of an encoder-decoder; the architecture is told by its two stacks, and named for Hugging Face.

    The decoder begins each text with `start_id`.
    """

    architecture: Literal["t5", "mt5", "bart", "marian"]
    vocabulary_size: int
    context_length: int
    width: int
    encoder: StackConfig
    decoder: StackConfig
    start_id: int
    pad_id: int
    embedding_scale: float = 1.0
    logits_scale: float = 1.0
    tied: bool = True  # the output layer is the embedding

    def __post_init__(self) -> None:
        check_sizes(self)

    num_layers = property(lambda self: self.decoder.num_layers)  # those with a cache
    num_kv_heads = property(lambda self: self.decoder.block.attention.num_kv_heads)
    head_dim = property(lambda self: self.decoder.block.attention.head_dim)
    relative = property(lambda self: self.encoder.positions == "relative")


class Seq2Seq(nn.Module):
    """Read a source from both sides, then write a target token by token, looking at both.

    Shapes: inputs.source (B, S), inputs.tokens (B, T) -> hidden states (B, T, D); logits() maps those to (B, T, V).
    Source: Vaswani et al. 2017, arXiv:1706.03762; Raffel et al. 2020, arXiv:1910.10683 (T5); Lewis et al. 2020, arXiv:1910.13461 (BART).
    """

    def __init__(self, config: Seq2SeqConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary_size, config.width)
        self.encoder, self.decoder = Stack(config.encoder, config.width), Stack(config.decoder, config.width)
        self.head = None if config.tied else Linear(config.width, config.vocabulary_size, bias=False)
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
        scores = linear(hidden * self.config.logits_scale, weight)
        return scores if self.bias is None else scores + self.bias[0]

    def initialise(self) -> None:
        """As initialise(); T5's queries start smaller, since its scores are not divided by sqrt(head_dim)."""
        depth = self.config.encoder.num_layers + self.config.decoder.num_layers
        initialise(self, self.config.width**-0.5 / math.sqrt(depth), ("output.weight", "down.weight"), std=self.config.width**-0.5)
        for name, parameter in self.named_parameters():
            if not parameter.is_meta and self.config.relative:
                if name.endswith("query.weight"):
                    nn.init.normal_(parameter, std=(self.config.width * self.config.head_dim) ** -0.5)
                elif name == "embedding.weight":
                    nn.init.normal_(parameter, std=0.3)


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
    encoder = _relative(
        num_layers=layers,
        num_heads=width // 64,
        head_dim=64,
        feedforward=FeedForwardConfig(hidden_width=math.ceil(width * 8 / 3 / 64) * 64, activation="gelu_tanh", gated=True),
        context_length=context_length or 512,
    )
    return Seq2SeqConfig(
        architecture="t5",
        vocabulary_size=vocabulary_size,
        context_length=encoder.context_length,
        width=width,
        encoder=encoder,
        decoder=encoder.writing(layers),
        start_id=0,
        pad_id=0,
        logits_scale=width**-0.5,
    )


def _relative(*, num_heads: int, head_dim: int, feedforward: FeedForwardConfig, epsilon: float = 1e-6, **stack: Any) -> StackConfig:
    """The reading side as T5 has it: norms before the parts and behind the last layer, scores not divided."""
    attention = AttentionConfig(num_heads=num_heads, num_kv_heads=num_heads, head_dim=head_dim, causal=False, scaled=False)
    block = BlockConfig(attention=attention, feedforward=feedforward, norm=NormConfig(kind="rms", epsilon=epsilon))
    return StackConfig(block=block, positions="relative", norm_last=True, **stack)


def recipe(config: Seq2SeqConfig, from_scratch: bool) -> Recipe:
    """As a decoder's, with twice its tokens a step, since few of them are targets."""
    rate = 2e-3 * (256 / config.width) ** 0.75
    tokens = min(2**18, 2**11 * max(1, config.width // 256) ** 2)
    return Recipe(rate=rate if from_scratch else 0.1 * rate, batch_tokens=tokens, beside_muon=6.0)


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
    return _t5_names(config.encoder.block.feedforward.gated) if config.relative else _bart_names()


GENERATION = "ForConditionalGeneration"
FORMAL = {"t5": "T5" + GENERATION, "mt5": "MT5" + GENERATION, "bart": "Bart" + GENERATION, "marian": "MarianMTModel"}


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
        encoder = _relative(
            num_layers=raw["num_layers"],
            num_heads=raw["num_heads"],
            head_dim=raw["d_kv"],
            feedforward=feedforward,
            epsilon=raw.get("layer_norm_epsilon", 1e-6),
            context_length=raw.get("n_positions", 512),
            num_buckets=raw.get("relative_attention_num_buckets", 32),
            farthest=raw.get("relative_attention_max_distance", 128),
        )
        apart = raw.get("tie_word_embeddings") is False  # T5 1.1 says so where the output layer is its own
        scaled = kind == "t5" and raw.get("scale_decoder_outputs", not apart)
        return Seq2SeqConfig(
            **shared,
            context_length=encoder.context_length,
            encoder=encoder,
            decoder=encoder.writing(raw.get("num_decoder_layers") or raw["num_layers"]),
            logits_scale=width**-0.5 if scaled else 1.0,
            tied=not (apart and "lm_head.weight" in raw["tensors"]),
        )
    if raw.get("share_encoder_decoder_embeddings") is False or raw.get("tie_word_embeddings") is False:
        raise CheckpointError(f"the {kind} came with an embedding for each side; this version knows one that both share")

    def side(name: str) -> StackConfig:
        activation = read_activation(raw["activation_function"])
        return StackConfig(
            num_layers=raw[f"{name}_layers"],
            block=BlockConfig(
                attention=AttentionConfig.biased(raw[f"{name}_attention_heads"], width, causal=False),
                feedforward=FeedForwardConfig(hidden_width=raw[f"{name}_ffn_dim"], activation=activation, gated=False, bias=True),
                norm=NormConfig(kind="layer", epsilon=1e-5),
                norm_first=False,
            ),
            positions="learned" if kind == "bart" else "sinusoidal",
            context_length=raw["max_position_embeddings"],
            norm_embedding=kind == "bart",
        )

    return Seq2SeqConfig(
        **shared,
        context_length=raw["max_position_embeddings"],
        encoder=side("encoder"),
        decoder=side("decoder").writing(raw["decoder_layers"]),
        embedding_scale=math.sqrt(width) if raw.get("scale_embedding") else 1.0,
    )


def write_config(config: Seq2SeqConfig) -> dict[str, Any]:
    """The config.json with which transformers computes the same."""
    encoder, decoder, layer = config.encoder, config.decoder, config.encoder.block
    activation = write_activation(layer.feedforward.activation)
    said: dict[str, Any] = {
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
        return said | {
            "d_kv": layer.attention.head_dim,
            "d_ff": layer.feedforward.hidden_width,
            "num_heads": layer.attention.num_heads,
            "num_layers": encoder.num_layers,
            "num_decoder_layers": decoder.num_layers,
            "n_positions": config.context_length,
            "relative_attention_num_buckets": encoder.num_buckets,
            "relative_attention_max_distance": encoder.farthest,
            "layer_norm_epsilon": layer.norm.epsilon,
            "feed_forward_proj": f"gated-{activation}".replace("gelu_new", "gelu") if layer.feedforward.gated else activation,
            "tie_word_embeddings": config.tied and (config.logits_scale != 1.0 or config.architecture == "mt5"),
        }
    for name, side in (("encoder", encoder), ("decoder", decoder)):
        said[f"{name}_layers"] = side.num_layers
        said[f"{name}_attention_heads"] = side.block.attention.num_heads
        said[f"{name}_ffn_dim"] = side.block.feedforward.hidden_width
    return said | {
        "max_position_embeddings": config.context_length,
        "activation_function": activation,
        "scale_embedding": config.embedding_scale != 1.0,
        "tie_word_embeddings": True,
    }


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
