"""Modules that are imported when they are first needed: what they import takes seconds, or comes with an extra."""

from __future__ import annotations

import importlib
from types import ModuleType

from danlu.base.errors import ConfigError


def late(module: str, extra: str) -> ModuleType:
    """A module of Danlu's. Raises: ConfigError naming the extra if it needs a package that is not installed."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("danlu"):
            raise
        raise ConfigError(f"this needs {error.name}, which is not installed; run: pip install 'danlu[{extra}]'") from None
