"""A run's row says what its folder can still tell, whatever has happened to the folder."""

from __future__ import annotations

import json
import os
import shutil
import time
from dataclasses import asdict
from pathlib import Path

import pytest

import danlu
from danlu.base.errors import ConfigError
from danlu.base.run import Run

HOUR = 3600.0


def begun(runs: Path, name: str, steps: int = 0, asked: int = 20) -> Run:
    """A run that was written down up to a step, an hour ago."""
    run = Run.create(runs, name, {"start": "gpt/nano", "task": "text", "steps": asked})
    if steps:
        run.write_manifest({"settings": {"steps": asked}})
    for step in range(1, steps + 1):
        run.log(step=step, loss_nats=6.0 / step, tokens=64 * step, wall_seconds=0.5 * step, tokens_per_second=100.0 + step)
    aged(run.folder)
    return run


def aged(folder: Path, seconds: float = HOUR) -> None:
    for file in folder.rglob("*"):
        os.utime(file, (time.time() - seconds, time.time() - seconds))


def write_final(run: Run) -> None:
    run.save_final(lambda folder: (folder / "config.json").write_text("{}"))


def test_figures_are_those_of_the_steps(tmp_path: Path) -> None:
    run = begun(tmp_path, "a", 20)
    run.log(kind="evaluation", step=20, val_loss_nats=0.5, val_bits_per_byte=0.25)
    row = danlu.runs(tmp_path)["a"]
    assert (row.steps, row.tokens, row.wall_seconds, row.start, row.task) == (20, 1280, 10.0, "gpt/nano", "text")
    assert row.loss_nats == pytest.approx(sum(6.0 / step for step in range(1, 21)) / 20)
    assert row.tokens_per_second == 110.5
    assert row.held_out == "0.250 bits/byte"
    assert row.fault is None
    curve = row.curve()
    assert curve.losses[-1] == pytest.approx(0.3) and curve.held_out[0].loss == 0.5 and curve.held_out[0].seconds == 10.0


def test_how_far_each_run_came(tmp_path: Path) -> None:
    begun(tmp_path, "never")
    begun(tmp_path, "interrupted", 7)
    done = begun(tmp_path, "done", 20)
    write_final(done)
    aged(done.folder)
    went_on = begun(tmp_path, "went-on", 30, asked=40)  # its final/ is of step 20
    write_final(went_on)
    aged(went_on.folder)
    begun(tmp_path, "now", 5).log(step=6, loss_nats=1.0)
    begun(tmp_path, "began").write_manifest({})
    aged(tmp_path / "began")
    states = {name: row.state for name, row in danlu.runs(tmp_path).items()}
    assert states == {
        "never": "never began",
        "interrupted": "interrupted at step 7",
        "done": "finished",
        "went-on": "interrupted at step 30",
        "now": "running?",
        "began": "interrupted at step 0",
    }


def test_a_run_with_a_budget_has_ended_once_its_model_is_younger_than_its_steps(tmp_path: Path) -> None:
    run = begun(tmp_path, "a", 9)
    run.write_manifest({"settings": {"steps": None, "budget": "5s"}})
    aged(run.folder)
    write_final(run)
    assert danlu.runs(tmp_path)["a"].state == "finished"
    aged(run.final, 2 * HOUR)  # it went on since
    assert danlu.runs(tmp_path)["a"].state == "interrupted at step 9"


def test_damage_stays_in_its_row(tmp_path: Path) -> None:
    begun(tmp_path, "whole", 3)
    for name in ("settings", "gone", "manifest", "line", "garbage", "cut", "other", "strange"):
        begun(tmp_path, name, 3)
    (tmp_path / "settings" / "config.json").write_bytes(b"\xff\xfe{")
    (tmp_path / "gone" / "config.json").unlink()
    (tmp_path / "manifest" / "manifest.json").write_text('{"format": 1, ')
    lines = (tmp_path / "line" / "metrics.jsonl").read_text().splitlines()
    (tmp_path / "line" / "metrics.jsonl").write_text("\n".join([lines[0], "{broken", lines[2], ""]))
    (tmp_path / "garbage" / "metrics.jsonl").write_bytes(bytes(range(256)) * 9)
    with (tmp_path / "cut" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 4, "lo')  # what a kill leaves is no damage
    (tmp_path / "other" / "config.json").write_text('{"format": 9}')
    (tmp_path / "strange" / "metrics.jsonl").write_text('{"step": "x", "loss_nats": []}\n{"step": 2, "loss_nats": NaN}\n[1]\n')
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "config.json").write_text('{"model_type": "qwen3"}')
    (tmp_path / "file.txt").write_text("x")
    for folder in tmp_path.iterdir():
        aged(folder)
    found = danlu.runs(tmp_path)
    faults = {name: row.fault for name, row in found.items()}
    assert faults == {
        "whole": None,
        "cut": None,
        "settings": "config.json: cannot be read",
        "gone": "config.json is missing",
        "manifest": "manifest.json: cannot be read",
        "line": "metrics.jsonl: line 2 cannot be read",
        "garbage": "metrics.jsonl: line 1 cannot be read",
        "other": "config.json has format 9, expected 1",
        "strange": "metrics.jsonl: line 3 cannot be read",
    }
    assert found["line"].steps == 3 and found["line"].state == "interrupted at step 3"
    assert found["garbage"].state == "damaged"
    for shown in (str(found), found._repr_html_()):
        assert all(name in shown for name in faults) and "what is wrong" in shown and "line 2 cannot be read" in shown
    for row in found.values():
        assert "<figure" in row._repr_html_()
        assert json.loads(json.dumps(asdict(row)))["name"] == row.name


def test_newest_first_and_in_any_script(tmp_path: Path) -> None:
    for hours, name in enumerate(("new", "中文", "old")):
        begun(tmp_path, name)
        aged(tmp_path / name, hours * HOUR)
    found = danlu.runs(tmp_path)
    assert list(found) == ["new", "中文", "old"]
    first, _, *rows = str(found).splitlines()
    assert [row.split()[0] for row in rows] == list(found)
    assert first.index("start") == rows[0].index("gpt/nano") == rows[1].index("gpt/nano") + 2  # each character takes two places
    assert "what is wrong" not in first


def test_a_narrow_terminal_gets_what_matters_most(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun(tmp_path, "a-run-with-a-name", 12)
    wide = str(danlu.runs(tmp_path))
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    for columns in (200, 80, 60, 30):
        monkeypatch.setenv("COLUMNS", str(columns))
        shown = str(danlu.runs(tmp_path))
        assert max(map(len, shown.splitlines()[:-1])) <= columns
        assert "12" in shown and (shown == wide) == (columns == 200)
    assert "interrupted at step 12" in wide


def test_names_are_text_in_a_page(tmp_path: Path) -> None:
    begun(tmp_path, "a", 3)
    (tmp_path / "a").rename(tmp_path / "<b>&")
    found = danlu.runs(tmp_path)
    assert "&lt;b&gt;&amp;" in found._repr_html_() and "<b>&" not in found._repr_html_()
    assert "<b>&" not in found["<b>&"]._repr_html_()


def test_no_runs(tmp_path: Path) -> None:
    assert "no runs in" in str(danlu.runs(tmp_path)) and "no runs in" in danlu.runs(tmp_path)._repr_html_()
    with pytest.raises(ConfigError, match="is no folder"):
        danlu.runs(tmp_path / "gone")
    shutil.rmtree(tmp_path)
