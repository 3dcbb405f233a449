"""Tasks by name: those of this folder, the bare kinds for a user's own rows, and tasks in a file of the user's own."""

from __future__ import annotations

import difflib
import functools
import importlib
import importlib.util
import pkgutil
import re
from pathlib import Path
from typing import get_args

import danlu.tasks
from danlu.base.errors import ConfigError
from danlu.data.examples import Kind
from danlu.tasks.base import Task

WHAT = {
    "classify": "a text (or two) belongs to a class: text, label",
    "regress": "a text (or two) has a number: text, label",
    "label": "every token has a tag: tokens, tags",
    "span": "a stretch of a context answers a question: context, question, answers",
    "translate": "a text becomes another: source, target",
    "chat": "a conversation is answered: messages, or prompt and completion",
    "choice": "one of several ways to go on is right: prompt, choices, answer",
    "retrieve": "a query finds its document among all: query, document",
}


def find_task(name: str) -> Task:
    """The task of that name, of a kind alone (`classify`, ...), or of a user's file: tasks.py, or tasks.py:NAME if it holds several.

    Raises: ConfigError if there is none.
    """
    known = tasks()
    if name in known:
        return known[name]
    if own := re.fullmatch(r"(.+\.py)(?::([^/\\]+))?", name):
        return _from_file(Path(own[1]).expanduser(), own[2] or "")
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    raise ConfigError(f"--task came as {name!r}; {meant}expected text, {', '.join(known)}, or a file tasks.py:NAME of your own")


@functools.lru_cache(maxsize=1)
def tasks() -> dict[str, Task]:
    """Every task by name: the bare kinds first, then those that bring their data, by name."""
    found = {kind: Task(name=kind, kind=kind, what=WHAT[kind]) for kind in get_args(Kind)}
    own = [task for module in pkgutil.iter_modules(danlu.tasks.__path__) for task in _tasks_of(f"danlu.tasks.{module.name}")]
    return found | {task.name: task for task in sorted(own, key=lambda task: task.name)}


def _tasks_of(module: str) -> tuple[Task, ...]:
    return tuple(getattr(importlib.import_module(module), "TASKS", ()))


def _from_file(file: Path, wanted: str) -> Task:
    """A task of a user's file, which is run as the user's own program."""
    if not file.is_file():
        raise ConfigError(f"--task came as {file}, which is no file; expected a Python file that holds TASKS")
    spec = importlib.util.spec_from_file_location(f"danlu_tasks_{file.stem}", file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise ConfigError(f"{file} cannot be run ({type(error).__name__}: {error}); mend it") from error
    held = getattr(module, "TASKS", ())
    found = {task.name: task for task in (held if isinstance(held, tuple | list) else (held,)) if isinstance(task, Task)}
    if not found or (wanted and wanted not in found) or (not wanted and len(found) > 1):
        told = f"holds {', '.join(found)}" if found else "holds no TASKS"
        raise ConfigError(f"{file} {told}; expected TASKS = (Task(...),), and {file}:NAME where there are several")
    return found[wanted] if wanted else next(iter(found.values()))
