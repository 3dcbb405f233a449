from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import danlu
from danlu.base.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A small recurrent network that has learnt to tell old from new."""
    folder = tmp_path_factory.mktemp("apply")
    rows = [{"text": f"{word} river {number}", "label": word} for number in range(40) for word in ("old", "new")]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return danlu.train("rnn/gru-nano", task="classify", data=folder / "rows.jsonl", steps=60, runs=folder, name="small", threads=1).run


def read(file: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()]


def test_every_row_is_there_in_order_with_its_own_fields_and_an_answer_or_the_reason(run: str, tmp_path: Path) -> None:
    lines = ['{"text": "old river 3", "id": 7}', "no json", '{"text": ""}', '{"words": "x"}', '{"text": "new 河", "label": "old"}', "[1]"]
    (tmp_path / "in.jsonl").write_text("\n".join(lines), "utf-8")
    made = danlu.apply(run, source=str(tmp_path / "in.jsonl"), out=tmp_path / "out.jsonl")
    first, broken, empty, other, second, listed = read(tmp_path / "out.jsonl")
    assert (made.rows, made.answered, made.refused, made.task) == (6, 2, 4, "classify")
    assert first["id"] == 7 and first["answer"]["label"] == "old" and first["answer"]["scores"]["old"] == first["answer"]["score"]  # type: ignore[index]
    assert second["label"] == "old" and second["answer"]["label"] == "new"  # type: ignore[index]
    assert broken["row"] == "no json" and "not JSON" in broken["answer"]["error"]  # type: ignore[index]
    assert "empty" in empty["answer"]["error"] and "no field 'text'" in other["answer"]["error"]  # type: ignore[index]
    assert listed["row"] == [1] and "a list" in listed["answer"]["error"]  # type: ignore[index]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl", "out.jsonl"]
    with pytest.raises(ConfigError, match="there already"):
        danlu.apply(run, source=str(tmp_path / "in.jsonl"), out=tmp_path / "out.jsonl")


def test_a_killed_run_goes_on_behind_the_last_row_and_comes_to_the_same(run: str, tmp_path: Path) -> None:
    count = 20_000
    with (tmp_path / "in.jsonl").open("w") as file:
        file.writelines(json.dumps({"text": f"{'old' if number % 3 else 'new'} river {number}"}) + "\n" for number in range(count))
    whole = danlu.apply(run, source=str(tmp_path / "in.jsonl"), out=tmp_path / "whole.jsonl")
    command = [sys.executable, "-m", "danlu", "apply", run, "--in", str(tmp_path / "in.jsonl"), "--out", str(tmp_path / "out.jsonl")]
    going = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    partial = tmp_path / ".out.jsonl.partial"
    until = time.monotonic() + 60
    while not (partial.is_file() and partial.stat().st_size) and time.monotonic() < until:
        time.sleep(0.01)
    going.send_signal(signal.SIGKILL)
    going.wait()
    assert partial.stat().st_size and not (tmp_path / "out.jsonl").exists()
    os.truncate(partial, partial.stat().st_size - 3)  # as if the kill had come amid a line
    with pytest.raises(ConfigError, match="beginning of another"):
        danlu.apply(run, task="classify", source=str(tmp_path / "in.jsonl"), out=tmp_path / "out.jsonl", truncate=True)
    made = danlu.apply(run, source=str(tmp_path / "in.jsonl"), out=tmp_path / "out.jsonl")
    assert made.rows == whole.rows == count and 0 < made.skipped < count
    for ours, theirs in zip(read(tmp_path / "out.jsonl"), read(tmp_path / "whole.jsonl"), strict=True):
        assert ours["text"] == theirs["text"] and ours["answer"]["label"] == theirs["answer"]["label"]  # type: ignore[index]


def test_a_baseline_learns_from_rows_that_are_given_and_joins_a_model(run: str, tmp_path: Path) -> None:
    solved, asked = tmp_path / "solved.jsonl", tmp_path / "in.jsonl"
    solved.write_text("\n".join(json.dumps({"text": f"{label} {n}", "label": label}) for n in range(20) for label in ("old", "new")))
    asked.write_text('{"text": "old 3"}\n{"text": "new 河"}')
    for name in ("baseline", f"{run}+baseline"):
        danlu.apply(name, task="classify", source=str(asked), out=tmp_path / f"{len(name)}.jsonl", examples=solved)
        assert [row["answer"]["label"] for row in read(tmp_path / f"{len(name)}.jsonl")] == ["old", "new"]  # type: ignore[index]
    assert [answer.label for answer in danlu.task("classify", "baseline", examples=solved)(["new 3", "old"])] == ["new", "old"]
    with pytest.raises(ConfigError, match="give them with --examples FILE"):
        danlu.apply("baseline", task="classify", source=str(asked), out=tmp_path / "out.jsonl")
    with pytest.raises(ConfigError, match="nothing here learns from them"):
        danlu.apply(run, source=str(asked), out=tmp_path / "out.jsonl", examples=solved)
    with pytest.raises(ConfigError, match="for one language model"):
        danlu.apply("baseline", task="classify", source=str(asked), out=tmp_path / "out.jsonl", examples=solved, shots=2)
    with pytest.raises(ConfigError, match="nowhere"):
        danlu.apply("baseline", task="classify", source=str(asked), out=tmp_path / "out.jsonl", examples=tmp_path / "nowhere.jsonl")


def test_a_language_model_answers_by_the_examples_in_its_prompt(tmp_path: Path) -> None:
    solved, asked = tmp_path / "solved.jsonl", tmp_path / "in.jsonl"
    rows = [{"text": f"car {number} is {colour}", "label": colour} for number in range(5) for colour in ("red", "blue")]
    solved.write_text("\n".join(map(json.dumps, rows)))
    asked.write_text('{"text": "car 7 is blue"}\n{"text": "car 8 is red"}')
    how: dict[str, Any] = {"task": "classify", "source": str(asked), "examples": solved, "shots_by": "balanced"}
    made = danlu.apply("smollm2-135m-instruct", **how, out=tmp_path / "out.jsonl", shots=8)
    assert made.answered == 2 and [row["answer"]["label"] for row in read(tmp_path / "out.jsonl")] == ["blue", "red"]  # type: ignore[index]


def test_a_task_with_a_model_is_asked_like_a_function(run: str) -> None:
    ask = danlu.task("classify", run)
    assert [answer.label for answer in ask(["old river", "new river", {"text": "old"}])] == ["old", "new", "old"]
    with pytest.raises(DataError, match="item 2"):
        ask(["old", "   "])


def test_nothing_and_the_wrong_are_refused_with_a_line(run: str, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    with pytest.raises(DataError, match="no rows"):
        danlu.apply(run, source=str(tmp_path / "empty.jsonl"), out=tmp_path / "out.jsonl")
    with pytest.raises(ConfigError, match=r"ends in \.jsonl"):
        danlu.apply(run, source=str(tmp_path / "empty.jsonl"), out=tmp_path / "out.csv")
    with pytest.raises(ConfigError, match="a head for classes, which does not answer span"):
        danlu.apply(run, task="span", source=str(tmp_path / "empty.jsonl"), out=tmp_path / "out.jsonl")


def test_a_row_s_own_answer_and_long_numbers_stay_as_they_came(run: str, tmp_path: Path) -> None:
    lines = ['{"text": "old", "answer": "mine"}', '{"id": 12345678901234567890123, "text": "new 河" }']
    lines.append('{"x" : 0.10000000000000000001, "answer":1.50, "answer_given": {"answer": [2]}, "text": "old"}')
    (tmp_path / "in.jsonl").write_text("\n".join(lines), "utf-8")
    danlu.apply(run, source=str(tmp_path / "in.jsonl"), out=tmp_path / "deep" / "out.jsonl")
    first, second, _ = read(tmp_path / "deep" / "out.jsonl")
    kept = (tmp_path / "deep" / "out.jsonl").read_text("utf-8").splitlines()[2]
    assert kept.startswith(
        '{"x" : 0.10000000000000000001, "answer_given_2":1.50, "answer_given": {"answer": [2]}, "text": "old", "answer": {'
    )
    assert first["answer_given"] == "mine" and first["answer"]["label"] == "old"  # type: ignore[index]
    assert second["id"] == 12345678901234567890123 and second["answer"]["label"] == "new"  # type: ignore[index]


def test_another_model_or_other_rows_do_not_go_on_where_these_stopped(run: str, tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text('{"text": "old"}\n{"text": "new"}')
    danlu.apply(run, source=str(file), out=tmp_path / "out.jsonl")
    (tmp_path / ".out.jsonl.partial").write_bytes((tmp_path / "out.jsonl").read_bytes().splitlines(keepends=True)[0])
    note = {"model": run, "task": "classify", "in": str(file), "truncate": False, "precision": "float32", "weights": [], "rows": []}
    (tmp_path / ".out.jsonl.partial.json").write_text(json.dumps(note))
    (tmp_path / "out.jsonl").unlink()
    with pytest.raises(ConfigError, match="beginning of another answer"):
        danlu.apply(run, source=str(file), out=tmp_path / "out.jsonl")
