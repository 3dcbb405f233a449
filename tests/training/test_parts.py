"""However a step's rows are dealt to parts and processes, the weights come out alike."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import danlu

OPTIONS: dict[str, Any] = {"precision": "float32", "threads": 1, "steps": 20, "batch_rows": 8, "rate": 1e-3}
WORDS = ("丹炉", "炼", "模型", "the", "river", "runs", "past", "old", "stone", "walls", "and", "green", "hills")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("parts")
    lines = [" ".join(WORDS[(i * k + k) % len(WORDS)] for k in range(1, 4 + i * 7 % 40)) for i in range(300)]
    (place / "raw.txt").write_text("\n".join(lines))
    rows = ["text,label", *(f'"{line}",{("good", "bad", "中")[number % 3]}' for number, line in enumerate(lines[:60]))]
    (place / "rows.csv").write_text("\n".join(rows))
    for kind, size in (("bpe", 300), ("wordpiece", 200), ("unigram", 512)):
        danlu.prepare(place / "raw.txt", out=place / kind, tokenizer_kind=kind, vocabulary_size=size, workers=1)
    return place


CASES = [
    ("gpt/nano", "bpe", {"context_length": 32}),
    ("gpt/nano", "bpe", {"context_length": 32, "within_documents": True}),
    ("bert/nano", "wordpiece", {"context_length": 32}),
    ("seq2seq/nano", "unigram", {"context_length": 32}),
    ("bert/nano", "rows.csv", {"task": "classify", "batch_rows": 7}),  # uneven lengths, and a last step of few rows
]


def weights(run: str) -> torch.Tensor:
    return torch.cat([tensor.flatten() for _, tensor in sorted(load_file(Path(run) / "final" / "model.safetensors").items())])


def apart(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / one.norm())


@pytest.mark.parametrize(("start", "data", "changes"), CASES)
def test_eight_rows_at_once_are_one_row_eight_times(start: str, data: str, changes: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    options = {"data": folder / data, "runs": tmp_path, "optimizer": "adamw"} | OPTIONS | changes
    whole = weights(danlu.train(start, name="whole", **options).run)
    for parts in (2, options["batch_rows"]):
        cut = danlu.train(start, name=f"parts-{parts}", accumulate=parts, **options)
        assert apart(whole, weights(cut.run)) < 1e-6
    other = danlu.train(start, name="other", **options | {"seed": 1})
    assert apart(whole, weights(other.run)) > 1e-2


@pytest.mark.parametrize(("start", "data", "changes"), [CASES[0], CASES[2], CASES[4]])
def test_two_processes_are_one(start: str, data: str, changes: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    options = {"data": folder / data, "optimizer": "adamw"} | OPTIONS | changes
    whole = weights(danlu.train(start, runs=tmp_path, name="whole", **options).run)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in options.items() if not isinstance(value, bool)]
    done = two_processes("-m", "danlu", "train", start, *flags, f"--runs={tmp_path}", "--name=two", "--json")
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count('"train_loss_nats"') == 1
    assert apart(whole, weights(str(tmp_path / "two"))) < 1e-6
    steps = [row["step"] for row in danlu_run(tmp_path / "two").metrics() if "kind" not in row]
    assert steps == list(range(1, 21))


def two_processes(*command: str) -> subprocess.CompletedProcess[str]:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node=2", "--master-addr=127.0.0.1", "--master-port=0", "--rdzv-backend=c10d"]
    whole = [sys.executable, *launcher, "--rdzv-endpoint=127.0.0.1:0", *command]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(whole, capture_output=True, text=True, timeout=300, env=environment, check=False)


@pytest.mark.skipif(sys.platform != "linux", reason="threads' names are read from /proc")
def test_the_group_ends_with_the_training(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(f"""
import pathlib, sys
import danlu
options = {{"steps": 2, "batch_rows": 4, "context_length": 32, "threads": 1}}
danlu.train("gpt/nano", data={str(folder / "bpe")!r}, runs={str(tmp_path)!r}, name="two", **options)
names = sorted(path.read_text().strip() for path in pathlib.Path("/proc/self/task").glob("*/comm"))
sys.stdout.write(f"left: {{names}}\\n")
""")
    done = two_processes(str(script))
    left = [line for line in done.stdout.splitlines() if line.startswith("left: ")]
    assert done.returncode == 0 and len(left) == 2, done.stderr[-3000:]
    assert not any("gloo" in line for line in left), left


def danlu_run(folder: Path) -> Any:
    from danlu.base.run import Run

    return Run(folder)
