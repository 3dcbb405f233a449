"""What every model family has in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from danlu.base.errors import ConfigError
from danlu.models.naming import Names
from danlu.nn.attention import Visible

# Far above any model there is, so that a damaged number cannot ask for all memory.
LARGEST = {"vocabulary_size": 2**24, "context_length": 2**21, "width": 2**17, "num_layers": 2**10}

# What Hugging Face configurations call activations, and what FeedForward does; of several names for one, the first is written.
ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu", "silu": "silu", "swish": "silu"}


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a model reads. A new modality adds a field here and a processor in inputs/, not a second forward.

    Shapes: tokens (B, T) of ids, in an encoder-decoder those of the decoder; positions (B, T), or None for 0, 1, 2, ...;
    segments (B, T), or None for all 0; visible (B or 1, 1, T or 1, S) with True = may look, or a Packing of sequences in one row,
    or None for the family's own habit (a decoder: itself and all before; an encoder: all);
    source (B, S) of ids that an encoder-decoder reads first; source_visible (B, 1, 1, S).
    """

    tokens: Tensor
    positions: Tensor | None = None
    segments: Tensor | None = None
    visible: Visible = None
    source: Tensor | None = None
    source_visible: Tensor | None = None


HeadKind = Literal["words", "classes", "labels", "spans"]


@dataclass(frozen=True, kw_only=True)
class Head:
    """What a model answers: words of the vocabulary, one class a text, one label a token, or where a span begins and ends.

    `names` are those of the classes or labels; `regression` reads the one class as a number.
    """

    kind: HeadKind = "words"
    names: tuple[str, ...] = ()
    regression: bool = False

    @property
    def num_answers(self) -> int:
        """Numbers that come out at each place (words: the vocabulary's size is the model's affair)."""
        return 2 if self.kind == "spans" else len(self.names)

    def write(self) -> dict[str, Any]:
        """As config.json of a Hugging Face folder has it."""
        if self.kind not in ("classes", "labels"):
            return {}
        known = {
            "id2label": {str(i): name for i, name in enumerate(self.names)},
            "label2id": {name: i for i, name in enumerate(self.names)},
        }
        return known | ({"problem_type": "regression"} if self.regression else {})

    @classmethod
    def read(cls, kind: HeadKind, raw: Mapping[str, Any]) -> Head:
        """The head of that kind with the labels of a config.json."""
        if kind not in ("classes", "labels"):
            return cls(kind=kind)
        labels = raw.get("id2label") or {}
        names = tuple(str(labels[key]) for key in sorted(labels, key=int)) or tuple(f"LABEL_{i}" for i in range(raw.get("num_labels", 2)))
        return cls(kind=kind, names=names, regression=raw.get("problem_type") == "regression" or (kind == "classes" and len(names) == 1))


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a model of some size is best trained: the highest rate, and tokens in a step.

    Where Muon moves the matrices within blocks, what is left to AdamW, embeddings above all, bears `beside_muon` times the rate.
    """

    rate: float
    batch_tokens: int
    beside_muon: float = 1.0


Pretraining = Literal["next-token", "masked-words", "span-corruption"]
Memory = Literal["keys", "state", "none"]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One model family: its file in models/ defines one of these under the name FAMILY.

    model_types are the names under which Hugging Face folders know it; `names` tells how they call a configuration's weights.
    A configuration is read from a config.json with the tensors' names under "tensors" (GGUF's settings are turned into one first).
    """

    name: str
    pretraining: Pretraining  # what it learns from plain text
    tokenizer: str  # the kind of tokenizer that is trained for it
    sizes: Callable[[str, int, int | None], Any]  # a size's name, the vocabulary and, if given, the context to a configuration
    recipe: Callable[[Any, bool], Recipe]  # a configuration, and whether training begins from scratch
    build: Callable[[Any], nn.Module]
    with_head: Callable[[Any, Head], Any]  # a configuration that answers something else; ConfigError if the family cannot
    packs: bool  # whether it reads several texts in one row (Packing)
    memory: Memory  # what is kept of earlier positions to go on from: keys and values, one state, or none, since it does not generate
    model_types: tuple[str, ...]
    names: Callable[[Any], Names]
    read_config: Callable[[Mapping[str, Any]], Any]
    write_config: Callable[[Any], dict[str, Any]]


def check_sizes(config: Any) -> None:
    """Raises: ConfigError if a number of a configuration is absurd."""
    for name, most in LARGEST.items():
        value = getattr(config, name)
        if not isinstance(value, int) or not 1 <= value <= most:
            raise ConfigError(f"{name} came as {value!r}; expected a whole number from 1 to {most}")


def choose_size(family: str, name: str, sizes: Mapping[str, Any]) -> Any:
    """The entry of a size. Raises: ConfigError naming those there are."""
    if name not in sizes:
        raise ConfigError(f"the size came as {family}/{name}; expected one of {', '.join(f'{family}/{known}' for known in sizes)}")
    return sizes[name]


def words_only(config: Any, head: Head) -> Any:
    """`with_head` of a family that answers words alone. Raises: ConfigError for any other head."""
    if head.kind != "words":
        raise ConfigError(f"a {config.architecture} answers words, not {head.kind}; begin from a bert (such as minilm-l6)")
    return config


def read_activation(foreign: Any) -> str:
    """FeedForward's name of a Hugging Face activation."""
    return ACTIVATIONS.get(str(foreign), str(foreign))


def write_activation(own: str) -> str:
    """The Hugging Face name of an activation."""
    return next(foreign for foreign, known in ACTIVATIONS.items() if known == own)


def initialise(module: nn.Module, residual_std: float, added: tuple[str, ...], std: float = 0.02) -> None:
    """Small random weights, zero biases; matrices whose names end in `added` reach the residual path and start smaller."""
    for name, parameter in module.named_parameters():
        if parameter.is_meta:  # built only for its shapes, or about to be filled from a file
            continue
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=residual_std if name.endswith(added) else std)
        elif name.endswith("bias"):
            nn.init.zeros_(parameter)
