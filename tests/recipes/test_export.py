from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import danlu
from danlu.base.errors import CheckpointError, ConfigError
from danlu.base.storage import whole_folder
from danlu.models.loading import load_model, save_model
from danlu.recipes.export import export
from tests.inference.tiny import write_tiny
from tests.models.shapes import distance, foreign_logits, write_foreign


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny")


def test_a_gguf_file_answers_as_the_model_does(tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = export(str(tiny), format="gguf", out=tmp_path / "tiny.gguf", json=True)
    told = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert told["out"] == done.out == str(tmp_path / "tiny.gguf") and told["kind"] == "F16"
    assert told["bytes"] == (tmp_path / "tiny.gguf").stat().st_size
    assert 0 < done.mean_difference < done.largest_difference < 1e-2
    with danlu.load(str(tiny)) as model, danlu.load(done.out) as again:
        assert again.tokenizer.chat_template == model.tokenizer.chat_template
        prompt = "大模型 the river"  # no two scores come near each other behind it
        assert again.generate(prompt, max_tokens=12, temperature=0).text == model.generate(prompt, max_tokens=12, temperature=0).text


def test_fewer_bits_make_a_smaller_file_and_the_output_tells_what_to_do_next(
    tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    done = [export(str(tiny), format="gguf", out=tmp_path / f"{kind}.gguf", kind=kind) for kind in ("F32", "F16", "Q8_0", "Q4_0")]
    assert [one.bytes for one in done] == sorted((one.bytes for one in done), reverse=True)
    assert [one.mean_difference for one in done] == sorted(one.mean_difference for one in done)
    told = capsys.readouterr().out
    assert f"next: danlu generate {tmp_path / 'Q4_0.gguf'} PROMPT" in told
    assert f"next: llama-cli -m {tmp_path / 'Q4_0.gguf'}" in told
    assert f"next: danlu evaluate {tmp_path / 'Q4_0.gguf'} --data" in told and f"evaluate {tmp_path / 'F16.gguf'}" not in told


def test_a_folder_opens_in_transformers(tiny: Path, tmp_path: Path) -> None:
    """There and back: from a GGUF file to a folder."""
    file = export(str(tiny), format="gguf", out=tmp_path / "tiny.gguf", kind="F32").out
    done = export(file, format="hf", out=tmp_path / "folder")
    assert done.largest_difference == 0 and done.bytes == sum(path.stat().st_size for path in (tmp_path / "folder").iterdir())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "folder")
    ids = tokenizer("The river and 大模型", return_tensors="pt").input_ids
    foreign = AutoModelForCausalLM.from_pretrained(tmp_path / "folder", dtype=torch.float32).eval()
    with danlu.load(str(tiny)) as model:
        assert distance(foreign_logits(foreign, ids), model.logits(ids)) < 1e-4


@pytest.mark.parametrize("name", ["t5", "bart", "roberta-classes", "gpt2"])
def test_folders_of_every_kind_come_back(name: str, tmp_path: Path) -> None:
    folder = write_foreign(name, tmp_path / "theirs")
    assert export(str(folder), format="hf", out=tmp_path / "ours").largest_difference == 0


def test_what_cannot_be_is_told_before_anything_is_written(tiny: Path, tmp_path: Path) -> None:
    def refusal(**options: object) -> str:
        given = {"format": "gguf", "out": tmp_path / "x.gguf"} | options
        with pytest.raises(ConfigError) as caught:
            export(str(tiny), **given)  # type: ignore[arg-type]
        return str(caught.value)

    assert "onnx, which comes with a later version" in refusal(format="onnx")
    assert "'GGUF'; expected gguf or hf" in refusal(format="GGUF")
    assert "'q4'" in refusal(kind="q4") and "Q4_0" in refusal(kind="q4")
    assert "none for hf" in refusal(format="hf", kind="F16", out=tmp_path / "folder")
    assert "ends in .gguf" in refusal(out=tmp_path / "x.bin")
    assert not list(tmp_path.iterdir())
    (tmp_path / "x.gguf").write_text("mine")
    assert "is there already" in refusal() and (tmp_path / "x.gguf").read_text() == "mine"
    assert "is there already" in refusal(format="hf", out=tmp_path)


@pytest.mark.parametrize(("value", "says"), [(float("nan"), "differ by up to nan"), (1e6, "does not fit F16")])
def test_a_file_that_would_answer_otherwise_does_not_stay(value: float, says: str, tiny: Path, tmp_path: Path) -> None:
    loaded = load_model(str(tiny))
    with torch.no_grad(), whole_folder(tmp_path / "changed") as folder:
        loaded.module.get_parameter("blocks.0.feedforward.up.weight")[3, 4] = value
        save_model(loaded.module, loaded.family, loaded.tokenizer, folder)
    with pytest.raises(CheckpointError, match=says):
        export(str(tmp_path / "changed"), format="gguf", out=tmp_path / "x.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["changed"]


def test_a_tokenizer_that_does_not_fit_is_refused(tiny: Path, tmp_path: Path) -> None:
    folder = write_foreign("llama-grouped", tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_bytes((tiny / name).read_bytes())
    with pytest.raises(CheckpointError, match="tokenizer of 332 tokens came for a model of 97"):
        export(str(folder), format="gguf", out=tmp_path / "x.gguf")
