from __future__ import annotations

import re
import subprocess
import sys

import pytest

from .rooms import ARCHITECTURE, END, ROOT, START, drawn, named, standing

CAPTURED = {"capture_output": True, "text": True, "timeout": 120}
LONGEST_MODULE = 400
LONGEST_TEST = 500
NO_NAMES = re.compile(r"(utils?|helpers?|misc|common|stuff)\b")


def test_the_map_names_every_room_and_no_other() -> None:
    said, there = named(ARCHITECTURE.read_text("utf-8")), standing()
    assert sorted(there.keys() - said.keys()) == [], "`make rooms` writes the lines that are missing"
    assert sorted(said.keys() - there.keys()) == [], "`make rooms` removes the lines of files that are gone"
    assert sorted(name for name, sentence in said.items() if not sentence) == [], "each room needs its line"


def test_a_drawn_map_reads_back_as_it_was() -> None:
    rooms = {"base/": "ground", "base/errors.py": "what can go wrong", "cli.py": "verbs", "server/": "web", "server/page/": "the page"}
    rooms["server/page/index.html"] = "shown"
    assert named(f"{START}\n```\n{drawn(rooms)}\n```\n{END}") == rooms


def test_every_module_says_what_it_is_for() -> None:
    assert [name for name, sentence in standing().items() if name.endswith(".py") and not sentence] == []


@pytest.mark.parametrize(("folder", "longest"), [("danlu", LONGEST_MODULE), ("tests", LONGEST_TEST)])
def test_files_are_short_and_named_for_what_they_hold(folder: str, longest: int) -> None:
    for path in (ROOT / folder).rglob("*.py"):
        lines = len(path.read_text("utf-8").splitlines())
        assert lines <= longest, f"{path.relative_to(ROOT)} has {lines} lines: split it"
        assert not NO_NAMES.match(path.stem), f"{path.relative_to(ROOT)}: a file is named for what it holds"


def test_imports_only_point_down() -> None:
    done = subprocess.run([sys.executable, "-c", "from importlinter.cli import lint_imports_command as run; run()"], cwd=ROOT, **CAPTURED)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " 0 broken" in done.stdout and "0 kept" not in done.stdout


def loaded_by(*arguments: str) -> set[str]:
    """Top-level names of all that a command imports."""
    done = subprocess.run([sys.executable, "-X", "importtime", *arguments], cwd=ROOT, **CAPTURED)
    assert done.returncode == 0, done.stderr[-2000:]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines() if line.startswith("import time:")}


@pytest.mark.parametrize(
    ("arguments", "heavy"),
    [
        (("-c", "import danlu"), {"torch", "numpy", "transformers", "cyclopts", "huggingface_hub"}),
        (("-m", "danlu", "--help"), {"torch", "transformers", "pyarrow", "fastapi"}),
        (("-m", "danlu", "fetch", "--list"), {"torch", "transformers", "pyarrow", "fastapi"}),
        (("-m", "danlu", "runs", "--runs", "docs"), {"torch", "numpy", "matplotlib", "transformers"}),
        (("-c", "import danlu.base.catalog"), {"torch", "numpy", "huggingface_hub"}),
    ],
)
def test_light_commands_stay_light(arguments: tuple[str, ...], heavy: set[str]) -> None:
    loaded = loaded_by(*arguments)
    assert "danlu" in loaded and loaded & heavy == set()
