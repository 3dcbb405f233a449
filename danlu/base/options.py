"""Many parameters as the fields of one dataclass, each with its words, spread over a function's signature, flags and docstring."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import textwrap
from collections.abc import Callable, Mapping
from typing import Any, get_type_hints


def option(default: Any, meaning: str, *, flag: bool = True, **more: Any) -> Any:
    """A field with a default and its words; `flag` tells whether spread() shows it, `more` is kept in the field's metadata."""
    metadata = {"meaning": meaning, "flag": flag, **more}
    if isinstance(default, dict):
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def meanings(kind: type) -> Mapping[str, str]:
    """The words of every field that was made by option()."""
    return {field.name: field.metadata["meaning"] for field in dataclasses.fields(kind) if "meaning" in field.metadata}


def spread(kind: type, **defaults: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Replace a function's `**` parameter by the fields of `kind` in its signature and docstring; `defaults` override theirs."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        types = get_type_hints(kind)
        signature = inspect.signature(function)
        kept = [entry for entry in signature.parameters.values() if entry.kind is not inspect.Parameter.VAR_KEYWORD]
        gathered = next(entry.name for entry in signature.parameters.values() if entry.kind is inspect.Parameter.VAR_KEYWORD)
        added, lines = [], []
        for field in dataclasses.fields(kind):
            if field.metadata["flag"]:
                default = defaults.get(field.name, field.default)
                added.append(inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=types[field.name]))
                words = field.metadata["meaning"]
                lines.append(f"{field.name}\n    {words[0].upper() + words[1:]}.")

        @functools.wraps(function)
        def called(*positional: Any, **named: Any) -> Any:
            return function(*positional, **{**defaults, **named})

        called.__signature__ = signature.replace(parameters=[*kept, *added])  # type: ignore[attr-defined]
        called.__doc__ = inspect.cleandoc(function.__doc__ or "") + "\n" + textwrap.dedent("\n".join(lines)) + "\n"
        called.__annotations__ = {name: value for name, value in function.__annotations__.items() if name != gathered}
        return called

    return decorate
