"""docs/tasks.md against the tasks that there are."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from danlu.data.examples import ClassifyExample
from danlu.tasks.base import SCORES
from danlu.tasks.loading import find_task, tasks

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "tasks.md").read_text("utf-8")


def test_the_page_lists_every_task_and_kind_as_it_is() -> None:
    rows = {line.split("`")[1]: line for line in PAGE.splitlines() if line.startswith("| `")}
    brought = {name: task for name, task in tasks().items() if task.sources}
    assert rows.keys() == brought.keys()
    for name, task in brought.items():
        assert f"| {task.kind} | {task.language} |" in rows[name] and task.what in rows[name]
    assert set(re.findall(r"^\| ([a-z]+) \| `", PAGE, re.MULTILINE)) == set(SCORES)


def test_the_page_s_own_task_is_found_and_asks(tmp_path: Path) -> None:
    block = next(block for block in re.findall(r"^```python\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL) if "shop.py" in block)
    (tmp_path / "shop.py").write_text(block)
    task = find_task(f"{tmp_path / 'shop.py'}:mood")
    example = ClassifyExample(text="It broke.", label="0")
    assert task.ask(example) == "Review: It broke.\nThe customer is" and task.answer(example) == "angry"
    assert task.choices(example, tuple(task.words)) == ("angry", "content")


@pytest.mark.parametrize("verb", ["train", "evaluate", "apply"])
def test_the_page_shows_flags_that_exist(verb: str) -> None:
    told = subprocess.run([sys.executable, "-m", "danlu", verb, "--help"], capture_output=True, text=True, timeout=120, check=True).stdout
    shown = [line.partition("#")[0] for line in PAGE.splitlines() if line.startswith(f"danlu {verb} ")]
    assert shown
    for flag in {word for line in shown for word in line.split() if word.startswith("--")}:
        assert re.search(rf"(?<![\w-]){flag}(?![\w-])", told), f"{verb} has no {flag}"
