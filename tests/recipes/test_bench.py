from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch

from danlu.base.errors import ConfigError, DataError, RequestError
from danlu.cli import main
from danlu.evaluation.perplexity.fidelity import measure_fidelity
from danlu.inference.model import load
from danlu.inference.speed import Meter
from danlu.models.base import Inputs
from danlu.models.loading import load_model
from danlu.recipes.bench import decode, quality
from tests.inference.encoder import write_encoder
from tests.inference.tiny import CONTEXT, write_tiny


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny(tmp_path_factory.mktemp("models") / "tiny"))


def test_every_figure_is_a_line_of_json(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "decode", tiny, "--batch", "1", "3", "--prompt", "40", "--tokens", "5", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(line["what"], line["batch"]) for line in lines] == [("decode", 1), ("decode", 3), ("prefill", 1), ("first_token", 1)]
    assert all(line["engine"] == "danlu" and line["precision"] == "float32" for line in lines)
    assert all(line["tokens_per_second"] > 0 for line in lines[:3]) and lines[3]["milliseconds"] > 0


def test_answers_are_as_long_as_asked_and_the_model_ends_as_before(tiny: str) -> None:
    with load(tiny) as model:
        ends = model.engine.end_ids
        meter = Meter(model)
        meter.decode(3, 7, context=100)
        assert [len(moments) for moments in meter.moments] == [7, 7, 7]
        assert model.engine.end_ids == ends and ends


def test_what_cannot_be_measured_is_refused(tiny: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"context holds {CONTEXT}"):
        decode(tiny, batch=(1,), prompt=CONTEXT + 1, tokens=2)
    with pytest.raises(ConfigError, match="positive numbers"):
        decode(tiny, batch=(0,))
    with pytest.raises(ConfigError, match="at most 32 answers advance together"):
        decode(tiny, batch=(300,))
    with pytest.raises(RequestError, match="encoder"):
        decode(str(write_encoder(tmp_path / "encoder", {"pooling_mode": "mean"})), batch=(1,))
    (tmp_path / "text.txt").write_text("The river")
    with pytest.raises(DataError, match="is no file here"):
        quality(tiny, text=tmp_path / "nowhere.txt")
    (tmp_path / "empty.txt").touch()
    with pytest.raises(ConfigError, match="0 tokens long"):
        quality(tiny, text=tmp_path / "empty.txt")
    with pytest.raises(ConfigError, match="expected float32, bfloat16, int8, int4"):
        quality(tiny, text=tmp_path / "text.txt", precisions=("int3",))


def test_fidelity_is_that_of_the_module(tiny: str) -> None:
    loaded = load_model(tiny)
    ids = [token % loaded.config.vocabulary_size for token in range(7, 200, 3)]
    exact, rough = measure_fidelity(loaded, ids, ("int4",), context=40)
    nats, count = 0.0, 0
    with torch.inference_mode():
        for start in range(0, len(ids), 40):
            part = torch.tensor(ids[start : start + 40])
            logprobs = loaded.module.logits(loaded.module(Inputs(tokens=part[None])))[0].log_softmax(-1)
            nats -= float(logprobs[:-1].gather(1, part[1:, None]).sum())
            count += len(part) - 1
    assert exact.tokens == count and exact.perplexity == pytest.approx(math.exp(nats / count), rel=1e-4)
    assert exact.perplexity_ratio == 1 and exact.kl_nats == 0 and exact.agreement == 1
    assert rough.kl_nats > 1e-4 and rough.agreement < 1 and rough.megabytes < exact.megabytes / 3


def test_quality_prints_a_row_for_each_precision(tiny: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.txt"
    text.write_text("The river and the mountain are old. 大模型是一种强大的技术。" * 5, encoding="utf-8")
    assert main(["bench", "quality", tiny, "--text", str(text), "--precisions", "bfloat16", "int8", "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["precision"] for line in lines] == ["float32", "bfloat16", "int8"]
    assert lines[1]["kl_nats"] < 0.05 and lines[0]["tokens"] == lines[2]["tokens"] > 50
