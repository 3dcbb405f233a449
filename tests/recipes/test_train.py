"""Training as a user meets it: from files to a model, stopped and gone on, refused where it must be."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import danlu
from danlu.base.errors import CheckpointError, ConfigError, DataError
from danlu.base.run import Run, find_fault
from danlu.cli import main

OPTIONS = ["--batch-rows", "2", "--context-length", "32", "--precision", "float32", "--threads", "1"]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    words = ("丹炉", "炼", "模型", "the", "river", "runs", "past", "old", "stone", "walls", "and", "green", "hills", "while", "ships")
    lines = [" ".join(words[(i * k + k) % len(words)] for k in range(1, 40)) for i in range(200)]
    (folder / "raw.txt").write_text("\n".join(lines))
    danlu.prepare(str(folder / "raw.txt"), out=folder / "prepared", vocabulary_size=300, workers=1)
    return folder / "prepared"


def _losses(run: Path) -> list[tuple[int, str]]:
    return [(row["step"], float(row["loss_nats"]).hex()) for row in Run(run).metrics() if "loss_nats" in row]


def test_a_run_holds_all_that_it_promises(text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["train", "gpt/nano", "--data", str(text), "--steps", "30", "--runs", str(tmp_path), "--name", "a", "--json", *OPTIONS])
    result = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert code == 0
    assert result["steps"] == 30
    assert result["tokens"] == 30 * 2 * 32
    rows = list(Run(tmp_path / "a").metrics())
    assert [row["step"] for row in rows if "loss_nats" in row] == list(range(1, 31))
    assert rows[0]["loss_nats"] > rows[29]["loss_nats"] + 0.5
    assert result["val_bits_per_byte"] == pytest.approx(rows[-1]["val_bits_per_byte"])
    assert list((tmp_path / "a" / "tensorboard").iterdir())
    assert list((tmp_path / "a" / "samples").iterdir())
    assert json.loads((tmp_path / "a" / "manifest.json").read_text())["settings"]["seed"] == 0
    final = tmp_path / "a" / "final"
    assert find_fault(final) is None
    theirs, tokenizer = AutoModelForCausalLM.from_pretrained(final), AutoTokenizer.from_pretrained(final)
    with danlu.load(str(tmp_path / "a")) as model, torch.inference_mode():
        ids = model.tokenizer.encode("the river 丹炉")
        assert tokenizer("the river 丹炉").input_ids == ids
        ours, other = model.logits([ids]), theirs(torch.tensor([ids])).logits
    assert (ours - other).abs().max() <= 1e-4 * other.abs().max()
    measured = danlu.evaluate(str(tmp_path / "a"), context_length=32)
    assert measured.bits_per_byte == pytest.approx(result["val_bits_per_byte"], rel=1e-5)
    assert json.loads((tmp_path / "a" / "evaluation" / "loss.json").read_text())["bits_per_byte"] == measured.bits_per_byte


def test_killed_and_gone_on_is_the_same_to_the_bit(text: Path, tmp_path: Path) -> None:
    common = ["gpt/nano", "--data", str(text), "--steps", "60", "--checkpoint-every", "7", "--runs", str(tmp_path), *OPTIONS]
    assert main(["train", *common, "--name", "whole"]) == 0
    process = subprocess.Popen([sys.executable, "-m", "danlu", "train", *common, "--name", "cut"], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while len(_losses(tmp_path / "cut")) < 20 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert 20 <= len(_losses(tmp_path / "cut")) < 60
    assert main(["train", *common, "--name", "cut", "--resume"]) == 0
    assert _losses(tmp_path / "cut") == _losses(tmp_path / "whole")
    files = [tmp_path / name / "final" / "model.safetensors" for name in ("cut", "whole")]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_ctrl_c_saves_and_says_how_to_go_on(text: Path, tmp_path: Path) -> None:
    command = ["gpt/nano", "--data", str(text), "--steps", "100000", "--runs", str(tmp_path), "--name", "b", *OPTIONS]
    process = subprocess.Popen([sys.executable, "-m", "danlu", "train", *command], stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while len(_losses(tmp_path / "b")) < 5 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1].strip().splitlines()
    assert process.returncode == 2
    assert said[-1].startswith("danlu: saved after step")
    assert f"danlu train {tmp_path / 'b'} --resume" in said[-1]
    checkpoint = Run(tmp_path / "b").newest_checkpoint()
    assert checkpoint is not None
    step = int(checkpoint.name.removeprefix("step-"))
    assert main(["train", str(tmp_path / "b"), "--resume", "--steps", str(step + 3)]) == 0
    assert [row[0] for row in _losses(tmp_path / "b")] == list(range(1, step + 4))


def test_damaged_checkpoints_are_passed_over(text: Path, tmp_path: Path) -> None:
    common = ["gpt/nano", "--data", str(text), "--checkpoint-every", "5", "--runs", str(tmp_path), "--name", "c", *OPTIONS]
    assert main(["train", *common, "--steps", "10"]) == 0
    run = Run(tmp_path / "c")
    older, newer = run.checkpoints()
    weights = newer / "model.safetensors"
    flipped = bytearray(weights.read_bytes())
    flipped[len(flipped) // 2] ^= 1
    weights.write_bytes(flipped)
    assert run.newest_checkpoint() == older
    shutil.rmtree(older)
    with pytest.raises(CheckpointError, match="damaged"):
        run.newest_checkpoint()


def test_continues_from_weights_that_are_there(text: Path, tmp_path: Path) -> None:
    first = danlu.train("gpt/nano", data=str(text), steps=20, runs=tmp_path, name="d", context_length=32, batch_rows=2)
    more = danlu.train(first.model, data=str(text), steps=20, runs=tmp_path, name="e", context_length=32, batch_rows=2)
    assert more.train_loss_nats < first.train_loss_nats


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"start": "gpt/huge"}, ConfigError, "gpt/nano"),
        ({"start": "nosuch"}, ConfigError, "no model is called nosuch"),
        ({"data": None}, ConfigError, "--data"),
        ({"data": "/nowhere"}, (ConfigError, DataError), "nowhere"),
        ({"steps": 1, "budget": "5s"}, ConfigError, "several of"),
        ({"budget": "soon"}, ConfigError, "budget"),
        ({"rate": float("nan")}, ConfigError, "rate"),
        ({"precision": "int3"}, ConfigError, "precision"),
        ({"threads": 0}, ConfigError, "threads"),
        ({"task": "dance"}, ConfigError, "dance"),
        ({"name": "../up"}, ConfigError, "--name"),
        ({"context_length": 20_000}, DataError, "context"),
        ({"context_length": 0}, ConfigError, "--context-length came as 0"),
        ({"batch_rows": 0}, ConfigError, "--batch-rows came as 0"),
        ({"accumulate": 0}, ConfigError, "--accumulate came as 0"),
        ({"steps": 0}, ConfigError, "--steps came as 0"),
        ({"epochs": 0}, ConfigError, "--epochs came as 0"),
        ({"checkpoint_every": 0}, ConfigError, "--checkpoint-every came as 0"),
        ({"momentum": 0.5}, ConfigError, "does nothing to muon"),
        ({"weight_decay": 0.1, "optimizer": "sgd"}, ConfigError, "does nothing to sgd"),
        ({"lora_rank": 4}, ConfigError, "without --adapt lora"),
        ({"truncate": True}, ConfigError, "--truncate does nothing"),
        ({"whole_words": True}, ConfigError, "--whole-words is for"),
        ({"schedule": "constant", "final_rate": 0.1}, ConfigError, "--final-rate does nothing"),
        ({"start": "gpt/7b"}, ConfigError, r"M weights; training it takes about .* are free"),
    ],
)
def test_refused_with_a_line_that_helps(options: dict, error: type, says: str, text: Path, tmp_path: Path) -> None:
    asked = {"start": "gpt/nano", "data": str(text), "runs": tmp_path, "name": "x", "steps": None} | options
    with pytest.raises(error, match=says):
        danlu.train(asked.pop("start"), **asked)


def test_going_on_by_its_folder_takes_no_other_settings(text: Path, tmp_path: Path) -> None:
    first = danlu.train("gpt/nano", data=str(text), steps=3, runs=tmp_path, name="r", context_length=32, batch_rows=2, rate=1e-3)
    for other in ({"rate": 5.0}, {"data": "elsewhere"}, {"seed": 7}):
        with pytest.raises(ConfigError, match=f"other settings .{next(iter(other))}"):
            danlu.train(first.run, resume=True, steps=5, **other)
    again = danlu.train(first.run, resume=True, steps=5, rate=1e-3)
    assert again.steps == 5
    assert danlu.train(first.run, resume=True).train_loss_nats == again.train_loss_nats  # nothing was left to do


def test_a_name_is_never_overwritten_nor_its_settings_changed(text: Path, tmp_path: Path) -> None:
    options = {"data": str(text), "steps": 2, "runs": tmp_path, "name": "f", "context_length": 32, "batch_rows": 2}
    danlu.train("gpt/nano", **options)
    with pytest.raises(ConfigError, match="there already"):
        danlu.train("gpt/nano", **options)
    with pytest.raises(ConfigError, match="seed 0 -> 1"):
        danlu.train("gpt/nano", **options, resume=True, seed=1)


def test_evaluate_counts_a_file_as_it_is(text: Path, tmp_path: Path) -> None:
    danlu.train("gpt/nano", data=str(text), steps=2, runs=tmp_path, name="g", context_length=32, batch_rows=2)
    file = tmp_path / "held.txt"
    file.write_bytes("丹炉 old stone\r\nwalls \u00e9\n".encode() * 50)
    assert danlu.evaluate(str(tmp_path / "g"), data=str(file)).bytes == file.stat().st_size
    for name, content, says in (("empty", b"", "is empty"), ("latin", b"caf\xe9 \xff", "no UTF-8"), ("missing", None, "no file")):
        other = tmp_path / f"{name}.txt"
        if content is not None:
            other.write_bytes(content)
        with pytest.raises(DataError, match=says):
            danlu.evaluate(str(tmp_path / "g"), data=str(other))


def test_a_full_disk_loses_nothing_and_says_so(text: Path, tmp_path: Path) -> None:
    limited = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000)); "
        "from danlu.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    common = [
        "train",
        "gpt/nano",
        "--data",
        str(text),
        "--steps",
        "6",
        "--checkpoint-every",
        "2",
        "--runs",
        str(tmp_path),
        "--name",
        "full",
    ]
    done = subprocess.run([sys.executable, "-c", limited, *common, *OPTIONS], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert "the checkpoint of step 2 was not saved" in done.stderr
    assert "could not be written" in done.stderr.strip().splitlines()[-1]
    assert not (tmp_path / "full" / "final").exists()
    assert not Run(tmp_path / "full").checkpoints()
    assert main([*common, *OPTIONS, "--resume"]) == 0  # there is room again
    assert find_fault(tmp_path / "full" / "final") is None


def test_a_run_has_one_writer_and_a_killed_one_lets_go(text: Path, tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from danlu.base.run import sole_writer
with sole_writer(Path({str(tmp_path)!r}) / "one"):
    print("held", flush=True)
    time.sleep(60)
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    how: dict[str, Any] = {"data": text, "steps": 1, "runs": tmp_path, "threads": 1}
    with pytest.raises(ConfigError, match="another process is training"):
        danlu.train("gpt/nano", name="one", **how)
    assert not (tmp_path / "one").exists()
    danlu.train("gpt/nano", name="two", **how)
    holder.kill()
    holder.communicate()
    assert danlu.train("gpt/nano", name="one", **how).steps == 1


@pytest.mark.parametrize("name", ["../out", "a/b", ".hidden", ""])
def test_a_name_that_is_a_path_is_refused(name: str, text: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--name came as"):
        danlu.train("gpt/nano", name=name or " ", data=text, steps=1, runs=tmp_path / "runs")
    assert list(tmp_path.rglob("config.json")) == []


def test_a_run_goes_on_with_what_it_chose_when_it_began(text: Path, tmp_path: Path) -> None:
    """Another version may have other defaults: what a run began with is in its manifest."""
    options: dict[str, Any] = {"data": str(text), "runs": tmp_path, "threads": 1, "precision": "float32", "schedule": "constant"}
    first = danlu.train("gpt/nano", name="a", steps=4, context_length=32, **options)
    run = Run(Path(first.run))
    begun = run.manifest
    run.write_manifest(begun | {"training": begun["training"] | {"rate": begun["training"]["rate"] / 8, "batch_rows": 3, "accumulate": 3}})
    danlu.train(first.run, resume=True, steps=6)
    rows = [row for row in run.metrics() if "rate" in row]
    assert rows[-1]["step"] == 6 and rows[-1]["rate"] == pytest.approx(rows[3]["rate"] / 8)
    assert rows[-1]["tokens"] - rows[-2]["tokens"] == 3 * 32
    assert run.manifest["training"]["accumulate"] == 3 and run.manifest["settings"]["rate"] is None
