"""Danlu's own folder: the cache of weights and data now, keys and audit later."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The folder named by DANLU_HOME, or ~/.danlu."""
    return Path(os.environ.get("DANLU_HOME") or Path.home() / ".danlu").expanduser()


def cache() -> Path:
    """Where fetched weights and data live; safe to delete, they are fetched again."""
    return home() / "cache"
