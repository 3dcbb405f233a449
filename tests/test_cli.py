"""The command line in a process of its own: exit codes, one-line errors, and what it imports."""

from __future__ import annotations

import subprocess
import sys

import pytest

from danlu.cli import VERBS


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "danlu", *arguments], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["trian"], "trian"),
        (["train", "gpt/nano", "--wrong-flag", "1"], "--wrong-flag"),
        (["train", "gpt/nano", "--steps", "many"], "many"),
        (["train"], "start"),
        (["generate", "nosuch-model", "hello"], "nosuch-model"),
        (["evaluate", "/nowhere/at/all"], "/nowhere/at/all"),
        (["prepare", "/nowhere/at/all", "--out", "/nowhere/out"], "/nowhere/at/all"),
        (["fetch", "nosuch-data"], "nosuch-data"),
        (["serve"], "model"),
    ],
)
def test_one_line_and_exit_2(arguments: list[str], says: str) -> None:
    done = _run(*arguments)
    assert done.returncode == 2, done
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert done.stderr.startswith("danlu: ")
    assert says in done.stderr
    assert not done.stdout


def test_help_names_every_verb_and_imports_nothing_heavy() -> None:
    code = (
        "import sys; from danlu.cli import main; main(['--help']); "
        "sys.exit(', '.join({'torch', 'numpy', 'tokenizers', 'fastapi', 'openai'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert all(verb in done.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_each_verb_explains_itself(verb: str) -> None:
    done = _run(verb, "--help")
    assert done.returncode == 0, done.stderr
    assert "--help" not in done.stderr
    assert len(done.stdout.splitlines()) > 5
