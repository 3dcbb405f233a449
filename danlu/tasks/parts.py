"""A task's examples: its own data, fetched and split, or a user's files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Literal, get_args

from danlu.base.catalog import find
from danlu.base.errors import ConfigError
from danlu.base.fetching import path_of
from danlu.data.examples import Examples, Placed, SetAside, gather, held_numbers, input_key, place, stream_examples
from danlu.tasks.base import Task

Part = Literal["train", "test", "all"]
SEED = 0  # of the split into training and test: the same for everybody, whatever a training's seed


def stream_part(task: Task, data: Sequence[str], part: Part) -> Iterator[Placed | SetAside]:
    """Examples of a task's own part, or all of `data` if that is given, one after the other, bad rows with their reason.

    A part that was drawn comes in the order of a hash, so that its first rows are a fair sample; what only measures, in the data's order.

    Raises: ConfigError if there is neither, or the task has no such part; what reading raises.
    """
    if part not in get_args(Part):
        raise ConfigError(f"--split came as {part!r}; a task has {', '.join(get_args(Part))}")
    if data:
        yield from stream_examples(data, task.kind)
        return
    if task.remake is not None:
        found = [
            place(each.file, each.line, task.remake(origin, each.example), task.kind) if isinstance(each, Placed) else each
            for origin in task.made_of
            for each in stream_part(origin, (), part)
        ]
        yield from (each for each in found if isinstance(each, SetAside))
        yield from _mixed(each for each in found if isinstance(each, Placed))
        return
    if task.rows is None or task.source is None:
        raise ConfigError(f"--task {task.name} brings no data; give --data FILE with its fields")
    if (part == "train" and task.test_share == 1) or (part == "test" and task.test_share == 0):
        other = "measure only" if part == "train" else "are for folds only (--folds 5)"
        raise ConfigError(f"the rows of --task {task.name} {other}; for others give --data FILE")
    found = [place(task.source, line, row, task.kind) for line, row in enumerate(task.rows(path_of(task.source)), 1)]
    yield from (each for each in found if isinstance(each, SetAside))
    usable = [each for each in found if isinstance(each, Placed)]
    if part == "all" or task.test_share in (0, 1):
        yield from usable
        return
    tested = held_numbers([each.example for each in usable], task.test_share, SEED)
    chosen = [each for number, each in enumerate(usable) if (number in tested) == (part == "test")]
    yield from _mixed(chosen)


def _mixed(found: Iterable[Placed]) -> list[Placed]:
    return sorted(found, key=lambda each: input_key(each.example, SEED + 1))


def read_part(task: Task, data: Sequence[str], part: Part) -> Examples:
    """All of a part. Raises: as stream_part; DataError if there is nothing in it, or too much of it cannot be used."""
    return gather(stream_part(task, data, part), task.kind, ", ".join(data) or f"{task.name} ({part})")


def licence_of(task: Task) -> str:
    """The licences of the data that a task brings."""
    return "; ".join(find(source).licence_line for source in task.sources)
