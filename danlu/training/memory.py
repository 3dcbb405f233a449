"""What a training will hold in memory, told before it begins."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from danlu.base.errors import ConfigError
from danlu.base.memory import memory
from danlu.base.progress import amount_text
from danlu.nn.loss import CHUNK_LOGITS
from danlu.training.config import TrainingConfig

FLOAT = 4
STATES = {"sgd": 1, "adam": 2, "adamw": 2, "muon": 2}  # numbers that an optimizer keeps for each weight; muon one, but not for embeddings
KEPT = 30  # numbers of the model's width that a layer keeps for the way back, for each token: measured peaks are 0.7 to 1.2 of what follows


def needed_bytes(weights: int, learning: int, model: Any, config: TrainingConfig) -> int:
    """Estimated bytes: weights, what the layers keep for the way back, and of the weights that learn gradients, states and copies."""
    states = STATES[config.optimizer] + (1 if config.average else 0)
    tokens = -(-config.batch_rows // config.accumulate) * config.context_length
    layers = 2 if config.recompute else model.num_layers  # a layer's numbers at a time, and what goes into each
    kept = tokens * model.width * (KEPT * layers + (model.num_layers if config.recompute else 0))
    logits = 3 * min(tokens * model.vocabulary_size, CHUNK_LOGITS)
    return FLOAT * (weights + learning * (1 + states + 1 + states) + kept + logits)


def fitted(start: str, weights: int, learning: int, model: Any, config: TrainingConfig, may_recompute: bool) -> TrainingConfig:
    """The settings, with `recompute` where only that fits into memory; `learning` of the weights are moved.

    Raises: ConfigError with the estimate if nothing fits.
    """
    needed, (free, total) = needed_bytes(weights, learning, model, config), memory()
    if needed > free and may_recompute:
        config = replace(config, recompute=True)
        needed = needed_bytes(weights, learning, model, config)
    if needed > free:
        raise ConfigError(
            f"{start} has {weights / 1e6:,.0f} M weights; training it takes about {amount_text(needed, 'B')}, and {amount_text(free, 'B')} "
            f"of {amount_text(total, 'B')} are free; take a smaller size, fewer --batch-rows, more --accumulate or --recompute"
        )
    return config
