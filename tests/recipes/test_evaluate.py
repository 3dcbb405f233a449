from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score

import danlu
from danlu.base.errors import ConfigError, DataError
from danlu.base.run import Run
from tests.inference.tiny import write_tiny

OWN = """
from danlu.tasks.base import Task

TASKS = (
    Task(name="ages", kind="classify", what="old or new", prompt="{text}\\nAge:", words={"new": "young", "old": "aged"}),
    Task(name="numbers", kind="regress", what="a number"),
)
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows to learn from and to measure on, in a class that a word tells, and some in the wrong one; two runs; a file of own tasks."""
    folder = tmp_path_factory.mktemp("evaluate")
    rows = [{"text": f"{word} river {number}", "label": word} for number in range(40) for word in ("old", "new")]
    test = [{"text": f"{word} stone {number}", "label": word if number % 5 else "old"} for number in range(30) for word in ("old", "new")]
    for name, content in (("train", rows), ("test", test)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, content)))
    (folder / "own.py").write_text(OWN)
    for name, steps in (("long", 60), ("short", 1)):
        danlu.train("rnn/gru-nano", task="classify", data=folder / "train.jsonl", steps=steps, runs=folder, name=name, threads=1)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A decoder that reads bytes, with weights as they were drawn."""
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny")


def samples(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text("utf-8").splitlines()]


def test_a_run_is_measured_at_what_it_was_trained_for_with_all_that_is_kept(place: Path) -> None:
    found = danlu.evaluate(str(place / "long"), data=place / "test.jsonl")
    folder = place / "long" / "evaluation" / "classify"
    kept = samples(folder)
    truth, said = ([row[name] if name == "expected" else row[name]["label"] for row in kept] for name in ("expected", "answer"))  # type: ignore[index]
    assert len(kept) == 60 and found.figures["accuracy"].value == pytest.approx(accuracy_score(truth, said))
    assert found.figures["f1_macro"].value == pytest.approx(f1_score(truth, said, average="macro"))
    assert 0.7 < found.main.low < found.main.value < found.main.high < 1
    assert "<html" in (folder / "report.html").read_text("utf-8") and found.checks.leaks == 0
    assert Run(place / "long").evaluations()["classify"]["accuracy"] == found.main.value
    again = danlu.evaluate(str(place / "long"), task="classify", data=str(place / "test.jsonl"), out=place / "again")
    assert again.figures == found.figures and samples(place / "again") == kept


def test_rows_that_were_trained_on_are_named(place: Path) -> None:
    (place / "leaky.jsonl").write_text((place / "test.jsonl").read_text() + "\n" + (place / "train.jsonl").read_text().splitlines()[3])
    found = danlu.evaluate(str(place / "long"), data=place / "leaky.jsonl", out=place / "leaky")
    assert found.checks.leaks == 1 and "leaky.jsonl:61" in str(found.checks)


def test_other_rows_do_not_take_an_evaluation_s_place(place: Path) -> None:
    shutil.copytree(place / "short", place / "further-short", ignore=shutil.ignore_patterns("evaluation"))
    (place / "few.jsonl").write_text("\n".join((place / "test.jsonl").read_text().splitlines()[:7]))
    for name in ("few.jsonl", "test.jsonl", "few.jsonl"):
        danlu.evaluate(str(place / "further-short"), data=place / name)
    kept = {folder.name: len(samples(folder)) for folder in (place / "further-short" / "evaluation").iterdir() if folder.is_dir()}
    assert kept == {"classify": 7, "classify-test": 60}


def test_models_whose_names_are_joined_answer_together_with_a_baseline(place: Path) -> None:
    given: dict[str, Any] = {"data": place / "test.jsonl", "examples": place / "train.jsonl", "task": "classify"}
    alone = {"data": given["data"]}
    names = f"{place / 'long'}+{place / 'short'}+baseline"
    danlu.evaluate(str(place / "long"), **alone, out=place / "one")
    danlu.evaluate(str(place / "short"), **alone, out=place / "two")
    danlu.evaluate("baseline", **given, out=place / "three")
    found = danlu.evaluate(names, **given, out=place / "together")
    parts = [[row["answer"]["scores"] for row in samples(place / name)] for name in ("one", "two", "three", "together")]  # type: ignore[index]
    np.testing.assert_allclose(np.mean(parts[:3], axis=0), parts[3], atol=1e-6)
    assert found.subject.model == names and found.checks.leaks == 0
    seen = danlu.evaluate(names, **given | {"data": place / "train.jsonl"}, out=place / "together-seen")
    assert seen.checks.leaks == 80  # what any of them learnt from
    # What the first was trained for is what all are asked; a baseline that nothing teaches says so.
    assert danlu.evaluate(f"{place / 'long'}+{place / 'short'}", **alone, out=place / "both").subject.task == "classify"
    with pytest.raises(ConfigError, match="beside yours there are none"):
        danlu.task("classify", f"{place / 'long'}+baseline")
    assert danlu.evaluate(f"baseline+{place / 'long'}", **given | {"task": None}, out=place / "last").subject.task == "classify"
    for name, told in (("long++short", "one of them has no name"), ("+baseline", "no name"), ("baseline+baseline", "without a task")):
        with pytest.raises(ConfigError, match=told):
            danlu.evaluate(name, data=place / "test.jsonl")
    with pytest.raises(ConfigError, match="a text is measured by one"):
        danlu.evaluate(f"{place / 'long'}+{place / 'short'}", task="loss", data=place / "test.jsonl")
    with pytest.raises(ConfigError, match="for one language model"):
        danlu.evaluate(names, **given, shots=1)
    with pytest.raises(ConfigError, match="ranks of several are not put together"):
        danlu.evaluate("minilm-l6+baseline", task="descriptions-en", limit=3)


def test_a_baseline_and_a_prompt_take_solved_rows_of_ones_own(place: Path, tiny: Path) -> None:
    given = {"task": "classify", "data": place / "test.jsonl", "examples": place / "train.jsonl"}
    found = danlu.evaluate("baseline", **given, out=place / "baseline")
    long = danlu.evaluate(str(place / "long"), data=place / "test.jsonl", out=place / "beside")
    assert found.figures["accuracy"] == long.figures["accuracy"]  # both take the word that tells
    assert danlu.evaluate("baseline", **given | {"data": place / "train.jsonl"}, out=place / "seen").checks.leaks == 80
    own = given | {"task": f"{place / 'own.py'}:ages", "limit": 8}
    danlu.evaluate(str(tiny), **own, shots=2, out=place / "shots")
    with_other = danlu.evaluate(str(tiny), **own | {"examples": place / "test.jsonl"}, shots=2, out=place / "other-shots")
    assert with_other.checks.scored == 8 and samples(place / "shots") != samples(place / "other-shots")


def test_evaluations_are_compared_by_a_paired_test(place: Path) -> None:
    for name in ("long", "short"):
        danlu.evaluate(str(place / name), data=place / "test.jsonl")
    found = danlu.evaluate(compare=(str(place / "long"), str(place / "short")), out=place / "compared")
    (pair,) = found.pairs
    assert pair.difference.value > 0.1 and pair.p < 0.01 and "is better" in str(pair)
    assert "is better" in (place / "compared" / "compare.html").read_text("utf-8")
    with pytest.raises(ConfigError, match="measure first: danlu evaluate"):
        danlu.evaluate(compare=(str(place / "long"), str(place / "nothing")))


def test_a_task_of_ones_own_is_trained_measured_applied_and_prompted(place: Path) -> None:
    task = f"{place / 'own.py'}:ages"
    made = danlu.train("rnn/gru-nano", task=task, data=place / "train.jsonl", steps=40, runs=place, name="ages", threads=1)
    assert danlu.evaluate(made.run, data=place / "test.jsonl").subject.task == "ages"
    assert danlu.task(task, made.run)(["old river"])[0].label == "old"
    with pytest.raises(ConfigError, match="holds ages, numbers; expected"):
        danlu.evaluate(made.run, task=str(place / "own.py"), data=place / "test.jsonl")


def test_the_command_line_tells_one_object_or_a_table_and_one_line_of_what_is_wrong(place: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "danlu", "evaluate", *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=place)

    done = run("long", "--task", "classify", "--data", "test.jsonl", "--json")
    told = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 0 and told["rows"] == 60 and told["intervals"]["accuracy"]["low"] < told["accuracy"]
    assert Path(place / told["report"]).is_file()
    danlu.evaluate(str(place / "short"), data=place / "test.jsonl")
    compared = run("--compare", "long", "short", "--task", "classify", "--json")
    assert compared.returncode == 0 and json.loads(compared.stdout.splitlines()[-1])["pairs"]
    for arguments, expected in (
        (("long", "--task", "klassify"), "did you mean classify"),
        (("long", "--task", "classify"), "give --data FILE"),
        (("long", "--task", "span", "--data", "test.jsonl"), "does not answer span"),
        ((), "no model came"),
    ):
        wrong = run(*arguments)
        assert wrong.returncode == 2 and expected in wrong.stderr and len(wrong.stderr.splitlines()) == 1


def test_bad_rows_are_set_aside_with_file_line_and_reason_until_there_are_too_many(place: Path) -> None:
    good = (place / "test.jsonl").read_text()
    (place / "odd.jsonl").write_text(good + '\n{"text": "", "label": "old"}\n{"text": "x", "label": "ancient"}\nno json')
    found = danlu.evaluate(str(place / "long"), data=place / "odd.jsonl", out=place / "odd")
    assert found.checks.set_aside == 3 and found.checks.scored == 60 and "odd.jsonl:62" in str(found.checks)
    (place / "worse.jsonl").write_text(good.replace('"old"}', '"ancient"}'))
    with pytest.raises(DataError, match="ancient"):
        danlu.evaluate(str(place / "long"), data=place / "worse.jsonl", out=place / "worse")
    (place / "single.jsonl").write_text("\n".join(json.dumps({"text": f"old {number}", "label": "old"}) for number in range(20)))
    assert any(
        "one class" in warning for warning in danlu.evaluate(str(place / "long"), data=place / "single.jsonl", out=place / "s").warnings
    )
    with pytest.raises(DataError, match="column"):
        (place / "column.jsonl").write_text("\n".join(json.dumps({"words": "x", "label": "old"}) for _ in range(5)))
        danlu.evaluate(str(place / "long"), data=place / "column.jsonl", out=place / "c")


def test_folds_train_measure_and_leave_an_ensemble(place: Path) -> None:
    how = {"task": "classify", "data": place / "train.jsonl", "steps": 40, "runs": place, "threads": 1}
    made = danlu.train("rnn/gru-nano", name="folded", folds=3, **how)
    assert len(made.members) == 3 and made.together.checks.scored == 80 and made.mean > 0.8
    assert (place / "folded" / "evaluation" / "classify-unseen" / "report.html").is_file()
    found = danlu.evaluate(str(place / "folded"), data=place / "test.jsonl")
    assert found.checks.leaks == 0 and found.main.value > 0.7
    with pytest.raises(ConfigError, match="there already"):
        danlu.train("rnn/gru-nano", name="folded", folds=3, **how)
    again = danlu.train("rnn/gru-nano", name="folded", folds=3, resume=True, **how)
    assert again.members == made.members


def test_all_rows_are_learnt_if_none_is_to_be_held_out(place: Path) -> None:
    how = {"task": "classify", "data": place / "train.jsonl", "epochs": 1, "batch_rows": 8, "runs": place, "threads": 1}
    whole = danlu.train("rnn/gru-nano", name="whole", validation=0, **how)
    assert (whole.steps, whole.val_accuracy) == (10, None)
    assert danlu.train("rnn/gru-nano", name="part", **how).steps == 9
    with pytest.raises(ConfigError, match="no share"):
        danlu.train("rnn/gru-nano", name="none", validation=1, **how)
    with pytest.raises(ConfigError, match="does nothing to a text"):
        danlu.train("gpt/nano", name="text", data=place / "train.jsonl", validation=0.5)


def test_rows_alike_but_for_case_and_signs_are_named_also_after_training_on(place: Path) -> None:
    (place / "alike.jsonl").write_text('{"text": "OLD river, 3!", "label": "old"}\n{"text": "a new one", "label": "new"}')
    danlu.train(str(place / "long"), task="classify", data=place / "test.jsonl", steps=1, runs=place, name="further", threads=1)
    for name in ("long", "further", "further/final"):
        assert danlu.evaluate(str(place / name), task="classify", data=place / "alike.jsonl", out=place / "alike").checks.leaks == 1


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"split": "train"}, "--data is measured whole"),
        ({"shots": 3}, "beside yours there are none: give them with --examples FILE"),
        ({"examples": "solved.jsonl"}, "nothing here learns from them"),
        ({"by": "mean"}, "are for one language model"),
        ({"threshold": 7.0}, "expected a score from 0 to 1"),
        ({"limit": 0}, "--limit came as 0"),
        ({"seed": -1}, "--seed came as -1"),
        ({"context_length": 8}, "--context-length is for texts"),
        ({"task": "loss", "limit": 0}, "--limit does nothing to a text"),
        ({"task": "loss", "by": "mean", "shots_by": "nearest"}, "--shots-by, --by do nothing to a text"),
        ({"task": "loss", "context_length": 0}, "--context-length came as 0"),
        ({"compare": ("a",), "limit": 3}, "--limit, --data do nothing to --compare"),
    ],
)
def test_what_does_nothing_is_refused(how: dict[str, Any], reason: str, place: Path) -> None:
    with pytest.raises(ConfigError, match=reason):
        danlu.evaluate(
            str(place / "long"),
            **{"data": place / "test.jsonl", "out": place / "refused", **how} | ({"out": None} if how.get("task") else {}),
        )
    with pytest.raises(ConfigError, match="--split came as 'tset'"):
        danlu.evaluate("baseline", task="sentiment-en", split="tset")


def test_folds_go_on_as_they_were_begun_and_know_every_label(place: Path) -> None:
    rows = [{"tokens": ["the", f"n{number}"], "tags": ["O", "B-X" if number else "B-RARE"]} for number in range(24)]
    (place / "tags.jsonl").write_text("\n".join(map(json.dumps, rows)))
    how: dict[str, Any] = {"task": "label", "data": place / "tags.jsonl", "steps": 2, "runs": place, "threads": 1, "name": "tags"}
    made = danlu.train("bert/nano", folds=2, **how)
    assert danlu.evaluate(made.folder, data=place / "tags.jsonl").checks.scored == 24
    assert Path(made.evaluation, "evaluation.json").is_file()  # measuring the ensemble did not take its place
    with pytest.raises(ConfigError, match="folds 2 -> 3"):
        danlu.train("bert/nano", folds=3, resume=True, **how)
    with pytest.raises(ConfigError, match="measures a model"):
        danlu.train("bert/nano", folds=2, **how | {"task": "choice", "name": "none"})
    with pytest.raises(ConfigError, match="without --folds"):
        danlu.train("bert/nano", ensemble="bagging", **how | {"name": "none"})
    with pytest.raises(ConfigError, match="--name came as"):
        danlu.train("bert/nano", folds=2, **how | {"name": "../out"})


def test_models_measured_against_different_answers_are_not_compared(place: Path) -> None:
    flipped = (place / "test.jsonl").read_text().replace('"label": "old"', '"label": "OLD"').replace('"label": "new"', '"label": "old"')
    (place / "other").mkdir()
    (place / "other" / "test.jsonl").write_text(flipped.replace('"label": "OLD"', '"label": "new"'))
    for folder, data in (("one", place / "test.jsonl"), ("two", place / "other" / "test.jsonl")):
        danlu.evaluate(str(place / "long"), data=data, out=place / folder)
    with pytest.raises(DataError, match="different answers in 60 of 60 rows"):
        danlu.evaluate(compare=(str(place / "one"), str(place / "two")), out=place / "compared-otherwise")
