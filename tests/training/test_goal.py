"""Early stopping by a figure of the task, against scikit-learn's count of the same rows."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from sklearn.metrics import f1_score

import danlu
from danlu.base.errors import ConfigError
from danlu.base.run import Run
from danlu.data.examples import ClassifyExample, read_examples, split_examples

SEED = 3
OPTIONS: dict[str, Any] = {"steps": 60, "batch_rows": 8, "context_length": 32, "checkpoint_every": 6, "seed": SEED, "threads": 1}


@pytest.fixture(scope="module")
def moods(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reviews of three moods, one of them rare; a tenth of the labels is wrong, so that no model gets all right."""
    draw, file = random.Random(0), tmp_path_factory.mktemp("moods") / "rows.jsonl"
    words = {"good": "lovely", "bad": "awful", "mixed": "uneven"}
    with file.open("w", encoding="utf-8") as rows:
        for number in range(400):
            mood = draw.choices(tuple(words), (6, 5, 1))[0]
            said = mood if draw.random() > 0.1 else "bad"
            text = f"the {draw.choice(('old', 'long', '新'))} film {number} was {words[mood]}"
            rows.write(json.dumps({"text": text, "label": said}, ensure_ascii=False) + "\n")
    return file


def test_the_weights_of_the_best_figure_are_taken_away(moods: Path, tmp_path: Path) -> None:
    danlu.train("bert/nano", data=moods, task="classify", runs=tmp_path, name="a", patience=4, best_by="f1_macro", **OPTIONS)
    run = Run(tmp_path / "a")
    rows = [row for row in run.metrics() if row.get("kind") == "evaluation"]
    told = {row["step"]: row["val_f1_macro"] for row in rows if not row["final"]}
    assert len(told) >= 5 and len(set(told.values())) > 1
    best = max(told, key=told.__getitem__)  # the first of equal ones
    held_out = split_examples(read_examples((str(moods),), "classify"), 0.1, SEED)[1].records
    assert all(isinstance(example, ClassifyExample) for example in held_out)
    expected = [example.label for example in held_out if isinstance(example, ClassifyExample)]
    answers = [answer.label for answer in danlu.task("classify", str(run.checkpoint(best)))([example.text for example in held_out])]
    assert told[best] == pytest.approx(f1_score(expected, answers, average="macro"), abs=1e-9)
    ids = torch.tensor([[1, 2, 3, 4]])
    with danlu.load(str(run.folder)) as taken, danlu.load(str(run.checkpoint(best))) as at_best:
        assert torch.equal(taken.hidden(ids), at_best.hidden(ids))


def test_answers_that_are_written_can_be_the_figure(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    talks = [{"prompt": f"What is {number} plus nothing?", "completion": str(number % 3)} for number in range(60)]
    file.write_text("\n".join(map(json.dumps, talks)))
    how = OPTIONS | {"context_length": 64, "steps": 12}
    danlu.train("gpt/nano", data=file, task="chat", runs=tmp_path, name="a", patience=9, best_by="exact_match", **how)
    told = [row["val_exact_match"] for row in Run(tmp_path / "a").metrics() if "val_exact_match" in row]
    assert len(told) == 2 and all(0 <= value <= 1 for value in told)


def test_what_cannot_be_told_counts_as_no_measurement(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One number held out has no correlation."""
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(json.dumps({"text": f"row {number}", "label": number}) for number in range(6)))
    made = danlu.train(
        "bert/nano", data=file, task="regress", runs=tmp_path, name="a", patience=2, best_by="spearman", **OPTIONS | {"steps": 24}
    )
    said = capsys.readouterr().err
    assert made.steps == 24 and said.count("cannot tell spearman") == 1 and "are lost" not in said
    rows = [row for row in Run(tmp_path / "a").metrics() if row.get("kind") == "evaluation" and not row["final"]]
    assert len(rows) == 4 and all(row["val_spearman"] is None for row in rows)


def test_a_run_that_stopped_early_says_so_and_goes_on_when_more_is_asked(
    moods: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    how = {"data": moods, "task": "classify", "runs": tmp_path, "name": "a", "patience": 1, "best_by": "accuracy"} | OPTIONS
    first = danlu.train("bert/nano", **how)
    assert first.steps < 60 and "stopped early: accuracy on what was held out" in capsys.readouterr().err
    assert danlu.train("bert/nano", **how, resume=True).steps == first.steps  # the same again: it stays as it is
    assert danlu.train(first.run, resume=True, steps=90).steps > first.steps


def test_best_weights_that_rotted_are_not_taken_away(moods: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The run was stopped, a bit of its best checkpoint turned, and it goes on to its end."""
    how = {"data": moods, "task": "classify", "runs": tmp_path, "name": "a", "patience": 9, "best_by": "accuracy"} | OPTIONS
    danlu.train("bert/nano", **how)
    run = Run(tmp_path / "a")
    told = {row["step"]: row["val_accuracy"] for row in run.metrics() if row.get("kind") == "evaluation" and not row["final"]}
    best = max(told, key=told.__getitem__)
    last = run.checkpoints()[-1]
    assert int(last.name.removeprefix("step-")) != best
    weights = run.checkpoint(best) / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-100] ^= 1
    weights.write_bytes(content)
    capsys.readouterr()
    danlu.train("bert/nano", **how, resume=True)
    assert f"the best weights, of step {best}, are lost ({weights} has changed" in capsys.readouterr().err
    ids = torch.tensor([[1, 2, 3, 4]])
    with danlu.load(str(run.folder)) as taken, danlu.load(str(last)) as at_last:
        assert torch.equal(taken.hidden(ids), at_last.hidden(ids))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"patience": 2, "best_by": "f2"}, r"--best-by came as 'f2'; expected loss, accuracy, .*f1_macro"),
        ({"best_by": "accuracy"}, "--best-by accuracy does nothing without --patience"),
        ({"patience": 2, "best_by": "accuracy", "task": "text"}, "a text has its loss alone"),
    ],
)
def test_what_cannot_be_watched_is_refused(options: dict[str, Any], said: str, moods: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=said):
        danlu.train("bert/nano", data=moods, runs=tmp_path, name="a", **({"task": "classify"} | OPTIONS | options))
    mended = {"task": "classify"} | OPTIONS | options | {"best_by": "loss", "steps": 1, "task": "classify"}
    assert danlu.train("bert/nano", data=moods, runs=tmp_path, name="a", **mended).steps == 1  # the name was not taken


def test_a_finished_run_that_is_resumed_is_not_measured_again(moods: Path, tmp_path: Path) -> None:
    options = OPTIONS | {"checkpoint_every": None, "steps": 20}
    danlu.train("bert/nano", data=moods, task="classify", runs=tmp_path, name="a", patience=30, **options)
    run = Run(tmp_path / "a")
    before = [row["step"] for row in run.metrics() if row.get("kind") == "evaluation" and not row["final"]]
    danlu.train(run.folder, resume=True)
    assert before[-1] == 20
    assert [row["step"] for row in run.metrics() if row.get("kind") == "evaluation" and not row["final"]] == before
