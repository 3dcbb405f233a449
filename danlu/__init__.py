"""Danlu: from raw text to a served large model, on the hardware you have."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from danlu.evaluation.asking import task
    from danlu.inference.model import load
    from danlu.recipes.apply import apply
    from danlu.recipes.evaluate import evaluate
    from danlu.recipes.export import export
    from danlu.recipes.fetch import fetch
    from danlu.recipes.prepare import prepare
    from danlu.recipes.runs import runs
    from danlu.recipes.serve import serve
    from danlu.recipes.train import train

# Fetched from their rooms when first used, so that `import danlu` costs nothing.
_PLACES = {
    "load": "danlu.inference.model",
    "fetch": "danlu.recipes.fetch",
    "prepare": "danlu.recipes.prepare",
    "train": "danlu.recipes.train",
    "evaluate": "danlu.recipes.evaluate",
    "export": "danlu.recipes.export",
    "serve": "danlu.recipes.serve",
    "apply": "danlu.recipes.apply",
    "task": "danlu.evaluation.asking",
    "runs": "danlu.recipes.runs",
}

__all__ = ["apply", "evaluate", "export", "fetch", "load", "prepare", "runs", "serve", "task", "train"]  # noqa: F822: see __getattr__


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'danlu' has no attribute {name!r}")
    return getattr(importlib.import_module(_PLACES[name]), name)
