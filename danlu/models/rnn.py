"""Recurrent networks: plain tanh, GRU or LSTM by configuration, as a language model or to tell a text's class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import Tensor, nn

from danlu.base.errors import ConfigError
from danlu.models.base import Family, Head, Inputs, Recipe, check_sizes, choose_size
from danlu.models.naming import Names
from danlu.nn.attention import Visible
from danlu.nn.linear import Linear
from danlu.nn.recurrent import CELLS, Cell, Recurrent, StateCache

MODEL_TYPE: Literal["danlu-rnn"] = "danlu-rnn"  # transformers knows no such thing: these folders have its files, and Danlu opens them


@dataclass(frozen=True, kw_only=True)
class RNNConfig:
    """Shape of a recurrent network; `context_length` is only how much text one training window holds."""

    cell: Cell
    vocabulary_size: int
    context_length: int
    width: int
    num_layers: int
    head: Head

    def __post_init__(self) -> None:
        check_sizes(self)
        if self.cell not in CELLS:
            raise ConfigError(f"cell came as {self.cell!r}; expected one of {', '.join(CELLS)}")

    architecture: Literal["danlu-rnn"] = MODEL_TYPE

    @property
    def state_width(self) -> int:
        """Numbers that a layer carries from one position to the next."""
        return CELLS[self.cell][1] * self.width


class RNN(nn.Module):
    """Read tokens one after the other; y = W_hy h + b tells what may come next, or (of the last position) the class.

    Shapes: inputs.tokens (B, T) -> states (B, T, D); logits() maps those to (B, T, V), or (B, C) for classes.
    Source: Elman 1990; Mikolov et al. 2010, "Recurrent neural network based language model".
    """

    def __init__(self, config: RNNConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocabulary_size, config.width)
        self.layers = nn.ModuleList(Recurrent(config.cell, config.width) for _ in range(config.num_layers))
        answers = config.vocabulary_size if config.head.kind == "words" else config.head.num_answers
        self.head = Linear(config.width, answers)
        self.initialise()

    def forward(self, inputs: Inputs, cache: Sequence[StateCache] | None = None) -> Tensor:
        x = self.embedding(inputs.tokens)
        for index, layer in enumerate(self.layers):
            x = layer(x, None if cache is None else cache[index])
        return x

    def logits(self, hidden: Tensor, visible: Visible = None) -> Tensor:
        """Scores: words (..., D) -> (..., V); classes (B, T, D) -> (B, C), from each text's last position that `visible` shows."""
        if self.config.head.kind != "classes":
            return self.head(hidden)
        if not isinstance(visible, Tensor):
            return self.head(hidden[:, -1])
        last = visible[:, 0, -1].long().cumsum(1).argmax(1)  # (B,)
        return self.head(hidden[range(len(hidden)), last])

    def initialise(self) -> None:
        """Orthogonal state matrices keep the size of what they carry; an LSTM begins by keeping its second state.

        Source: Saxe et al. 2014, arXiv:1312.6120; Jozefowicz et al. 2015 (the forget gate's bias).
        """
        for name, parameter in self.named_parameters():
            if parameter.is_meta:
                continue
            if name.endswith("hidden.weight"):
                for gate in parameter.data.split(self.config.width):
                    nn.init.orthogonal_(gate)
            elif name.endswith("input.weight"):
                nn.init.xavier_uniform_(parameter)
            elif parameter.dim() > 1:
                nn.init.normal_(parameter, std=0.02 if name == "head.weight" else 1.0)
            else:
                nn.init.zeros_(parameter)
                if self.config.cell == "lstm" and name.endswith("input.bias"):
                    parameter.data[self.config.width : 2 * self.config.width] = 1.0


CHOICES: tuple[tuple[str, Cell], ...] = (("tanh-", "tanh"), ("gru-", "gru"), ("lstm-", "lstm"), ("", "lstm"))
SHAPES = {"nano": (1, 128), "tiny": (1, 384), "mini": (2, 512), "small": (2, 1024)}  # layers, width
SIZES = {f"{prefix}{name}": (cell, *shape) for prefix, cell in CHOICES for name, shape in SHAPES.items()}


def size(name: str, vocabulary_size: int, context_length: int | None = None) -> RNNConfig:
    """The configuration of rnn/NAME: tanh-tiny, gru-tiny, lstm-tiny (also tiny), and so on."""
    cell, layers, width = choose_size("rnn", name, SIZES)
    return RNNConfig(
        cell=cell,
        vocabulary_size=vocabulary_size,
        context_length=context_length or 128,
        width=width,
        num_layers=layers,
        head=Head(kind="words"),
    )


def with_head(config: RNNConfig, head: Head) -> RNNConfig:
    """The same network with another head."""
    if head.kind not in ("words", "classes"):
        raise ConfigError(f"a recurrent network here answers words or classes, not {head.kind}; begin from a model of the family bert")
    return replace(config, head=head)


def recipe(config: RNNConfig, from_scratch: bool) -> Recipe:
    """Positions are computed one after the other, so a step holds many short rows."""
    rate = 4e-3 * (256 / config.width) ** 0.5 * (0.25 if config.cell == "tanh" else 1.0)
    return Recipe(rate=rate if from_scratch else 0.1 * rate, batch_tokens=2**11)


def read_config(raw: Mapping[str, Any]) -> RNNConfig:
    """Understand the config.json of a folder that Danlu wrote."""
    return RNNConfig(
        cell=raw["cell"],
        vocabulary_size=raw["vocab_size"],
        context_length=raw["context_length"],
        width=raw["hidden_size"],
        num_layers=raw["num_hidden_layers"],
        head=Head.read(raw["head"], raw),
    )


def write_config(config: RNNConfig) -> dict[str, Any]:
    """The config.json of a folder."""
    return {
        "model_type": MODEL_TYPE,
        "architectures": ["DanluRNN"],
        "cell": config.cell,
        "vocab_size": config.vocabulary_size,
        "context_length": config.context_length,
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "head": config.head.kind,
        **config.head.write(),
    }


_SAME = ("embedding", "head", "layers.{i}.input", "layers.{i}.hidden")
FAMILY = Family(
    name="rnn",
    pretraining="next-token",
    tokenizer="bpe",
    sizes=size,
    recipe=recipe,
    build=RNN,
    with_head=with_head,
    packs=False,
    memory="state",
    model_types=(MODEL_TYPE,),
    names=lambda config: Names(table={name: name for name in _SAME}),
    read_config=read_config,
    write_config=write_config,
)
