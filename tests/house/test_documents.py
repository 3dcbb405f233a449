from __future__ import annotations

import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

from danlu.cli import WITH_COMMANDS

from .rooms import ROOT

ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^(#+) ", re.MULTILINE)
COMMENT = re.compile(r"\s+#.*$|^#.*\n", re.MULTILINE)
FIGURE = re.compile(r"\d+(?:[.,]\d+)*")


def pages() -> list[Path]:
    return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    prose = FENCE.sub("", page.read_text("utf-8"))
    for target in LINK.findall(prose):
        if not re.match(r"[a-z]+:", target) and not target.startswith("#"):
            there = page.parent / target.partition("#")[0]
            assert there.exists(), f"{page.name} links to {target}, which does not exist"


def commands(text: str) -> list[str]:
    """Every `danlu VERB ...` in a page's blocks of code, its lines joined."""
    blocks = "\n".join(block for language, block in FENCE.findall(text) if language not in ("python", "json"))
    lines = blocks.replace("\\\n", " ").splitlines()
    return [line.strip().removeprefix("$ ") for line in lines if re.match(r"\s*(\$ )?danlu +[a-z]", line)]


def test_the_readme_shows_verbs_and_flags_that_exist() -> None:
    shown = commands(ENGLISH.read_text("utf-8"))
    assert shown, "README.md shows no command"
    for command in shown:
        words = command.partition("#")[0].split()
        named = words[1:3] if words[1] in WITH_COMMANDS and words[2:] and not words[2].startswith("-") else words[1:2]
        verb_help = help_of(*named)
        for flag in (word.partition("=")[0] for word in words[2:] if word.startswith("--")):
            assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", verb_help), f"README.md: `{command}`: {words[1]} has no {flag}"


@functools.cache
def help_of(*verb: str) -> str:
    done = subprocess.run([sys.executable, "-m", "danlu", *verb, "--help"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, f"README.md names the verb {verb!r}: {done.stderr}"
    return done.stdout


def test_the_readmes_have_equal_content() -> None:
    english, chinese = ENGLISH.read_text("utf-8"), CHINESE.read_text("utf-8")
    assert HEADING.findall(FENCE.sub("", english)) == HEADING.findall(FENCE.sub("", chinese))
    assert code_in(english) == code_in(chinese)
    assert figures_in(english) == figures_in(chinese)
    assert len(LINK.findall(english)) == len(LINK.findall(chinese))


def code_in(text: str) -> list[tuple[str, str]]:
    """Blocks of code without their comments, which may be translated."""
    return [(language, COMMENT.sub("", block).strip()) for language, block in FENCE.findall(text)]


def figures_in(text: str) -> list[list[str]]:
    """The numbers of each row of a table."""
    return [sorted(FIGURE.findall(line)) for line in text.splitlines() if line.startswith("|")]


def test_the_readers_of_pages_find_what_they_should() -> None:
    text = "# A\n```sh\n$ danlu fetch x --from FILE  # why\n# only words\ndanlu train a \\\n  --steps 3\n```\n| 1.5 | 2,000 |\n[x](y.md)\n"
    assert commands(text)[0].startswith("danlu fetch x --from FILE") and commands(text)[1].split()[-2:] == ["--steps", "3"]
    assert code_in(text)[0][1].splitlines()[0] == "$ danlu fetch x --from FILE" and "only words" not in code_in(text)[0][1]
    assert figures_in(text) == [["1.5", "2,000"]] and LINK.findall(text) == ["y.md"]
