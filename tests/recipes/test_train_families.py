"""Every family from text, and every task from rows: trained by the command, taken away, opened elsewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

import danlu
from danlu.base.errors import ConfigError, DataError
from danlu.base.run import Run
from danlu.cli import main
from danlu.models.loading import load_model
from tests.models.shapes import class_of, distance, foreign_logits, own_logits

OPTIONS: dict[str, Any] = {"precision": "float32", "threads": 1}
WORDS = ("丹炉", "炼", "模型", "the", "river", "runs", "past", "old", "stone", "walls", "and", "green", "hills", "while", "ships")


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "raw.txt"
    file.write_text("\n".join(" ".join(WORDS[(i * k + k) % len(WORDS)] for k in range(1, 40)) for i in range(400)))
    return file


@pytest.fixture(scope="module")
def folders(raw: Path) -> dict[str, Path]:
    sizes = {"bpe": 300, "wordpiece": 200, "unigram": 512}
    for kind, size in sizes.items():
        danlu.prepare(str(raw), out=raw.parent / kind, tokenizer_kind=kind, vocabulary_size=size, workers=1)
    return {kind: raw.parent / kind for kind in sizes}


@pytest.mark.parametrize(
    ("start", "kind", "options"),
    [
        ("bert/nano", "wordpiece", {}),
        ("bert/nano", "wordpiece", {"whole_words": True}),
        ("seq2seq/nano", "unigram", {}),
        ("rnn/tanh-nano", "bpe", {}),
        ("rnn/gru-nano", "bpe", {}),
        ("rnn/lstm-nano", "bpe", {}),
    ],
)
def test_a_family_learns_from_text_and_is_taken_away(
    start: str, kind: str, options: dict[str, Any], folders: dict[str, Path], tmp_path: Path
) -> None:  # fmt: skip
    given = {"data": str(folders[kind]), "batch_rows": 4, "context_length": 48, "runs": tmp_path, "name": "a"} | OPTIONS | options
    made = danlu.train(start, steps=60, rate=3e-3, **given)
    losses = [row["loss_nats"] for row in Run(tmp_path / "a").metrics() if "kind" not in row]
    assert sum(losses[-5:]) / 5 < losses[0] - 1.0
    assert made.val_loss_nats is not None and made.val_loss_nats < losses[0] - 1.0
    assert (made.val_bits_per_byte is not None) == (start.startswith("rnn"))
    loaded = load_model(made.model)
    assert loaded.tokenizer is not None
    if start.startswith("rnn"):
        with danlu.load(made.run) as model:
            assert model.generate("the river", max_tokens=5, temperature=0).text
        return
    config = transformers.AutoConfig.from_pretrained(made.model)
    theirs = class_of(config).from_pretrained(made.model).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(made.model)
    ids = tokenizer("the old river 丹炉", return_tensors="pt").input_ids
    assert ids[0].tolist() == loaded.tokenizer.encode_model_input("the old river 丹炉").ids.tolist()
    source = ids if start.startswith("seq2seq") else None
    assert distance(own_logits(loaded.module, ids, source), foreign_logits(theirs, ids, source)) < 1e-4


def test_a_masked_run_goes_on_to_the_bit(folders: dict[str, Path], tmp_path: Path) -> None:
    common = {"data": str(folders["wordpiece"]), "batch_rows": 2, "context_length": 32, "runs": tmp_path} | OPTIONS
    danlu.train("bert/nano", steps=12, name="whole", **common)
    danlu.train("bert/nano", steps=12, checkpoint_every=5, name="cut", **common)
    run = Run(tmp_path / "cut")
    for place in run.checkpoints()[1:]:  # as if it had been killed after step 5 or 10
        place.rename(tmp_path / place.name)
    danlu.train(str(tmp_path / "cut"), resume=True)
    losses = [[float(row["loss_nats"]).hex() for row in Run(tmp_path / name).metrics() if "kind" not in row] for name in ("whole", "cut")]
    assert losses[0] == losses[1]


def rows_file(folder: Path, rows: list[dict[str, Any]]) -> str:
    file = folder / "rows.jsonl"
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    return str(file)


def reviews(count: int) -> list[dict[str, Any]]:
    words = {"bad": ("cold", "dull", "bleak", "坏"), "good": ("fine", "warm", "bright", "好")}
    labels = [("bad", "good")[i % 2] for i in range(count)]
    texts = [f"a {words[label][i % 4]} tale no {i} of {words[label][i // 4 % 4]} days" for i, label in enumerate(labels)]
    return [{"text": text, "label": label} for text, label in zip(texts, labels, strict=True)]


@pytest.mark.parametrize("start", ["bert/nano", "rnn/gru-nano", "another head"])
def test_classes_from_scratch_and_from_weights(start: str, tmp_path: Path) -> None:
    if start == "another head":
        numbers = rows_file(tmp_path, [row | {"label": len(row["text"])} for row in reviews(300)])
        start = danlu.train("bert/nano", task="regress", data=numbers, steps=3, runs=tmp_path, name="before", **OPTIONS).run
    given = OPTIONS | {"data": rows_file(tmp_path, reviews(300)), "epochs": 4, "rate": 2e-3, "runs": tmp_path, "name": "a"}
    made = danlu.train(start, task="classify", optimizer="adamw" if "rnn" in start else "muon", **given)
    assert made.val_accuracy is not None and made.val_accuracy > 0.9
    assert load_model(made.model).config.head.names == ("bad", "good")
    if not start.startswith("rnn"):
        theirs = transformers.AutoModelForSequenceClassification.from_pretrained(made.model)
        tokenizer = transformers.AutoTokenizer.from_pretrained(made.model)
        tell = transformers.pipeline("text-classification", model=theirs, tokenizer=tokenizer)
        assert [answer["label"] for answer in tell(["a fine tale of warm days", "a dull tale of cold days"])] == ["good", "bad"]


def test_other_tasks(tmp_path: Path) -> None:
    tags = {"Peking": "P", "Xi'an": "P", "gold": "O", "lead": "O", "in": "O"}
    names = list(tags)
    tagged = [{"tokens": (words := [names[i % 5], "in", names[i * 3 % 5]]), "tags": [tags[word] for word in words]} for i in range(200)]
    numbers = [{"text": f"{names[i % 4]} lead {i}", "label": float(i % 4)} for i in range(200)]
    spans = [
        {"context": f"in {place} is gold {i}", "question": "where?", "answers": [place]} for i in range(100) for place in ("Peking", "Oslo")
    ]
    results = {}
    for task, rows in (("label", tagged), ("regress", numbers), ("span", spans)):
        data = rows_file(tmp_path, rows)
        results[task] = danlu.train(
            "bert/nano", task=task, data=data, epochs=12, rate=2e-3, batch_rows=32, runs=tmp_path, name=task, **OPTIONS
        )
    assert results["label"].val_accuracy > 0.9
    assert results["regress"].val_loss_nats < 0.5  # squared error; the variance is 1.25
    assert results["span"].val_accuracy > 0.9
    pairs = [{"source": f"gold {i % 7}", "target": f"金 {i % 7}"} for i in range(210)]
    made = danlu.train(
        "seq2seq/nano",
        task="translate",
        data=rows_file(tmp_path, pairs),
        epochs=25,
        rate=3e-3,
        batch_rows=32,
        runs=tmp_path,
        name="t",
        **OPTIONS,
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(made.model)
    with danlu.load(made.run) as model:
        assert model.encode("gold 5") == tokenizer("gold 5").input_ids  # with the end of the text, as in training
        right = [model.generate(f"gold {i}", max_tokens=20, temperature=0).text.strip() == f"金 {i}" for i in range(7)]
    assert sum(right) == 6  # one pair is held out


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"start": "gpt/nano", "task": "classify"}, ConfigError, "answers words, not classes"),
        ({"start": "bert/nano", "task": "translate"}, DataError, "no field 'source'"),
        ({"start": "bert/nano", "task": "sing"}, ConfigError, "expected text, classify"),
        ({"start": "bert/nano", "task": "classify", "data": "one"}, DataError, "one class only"),
        ({"start": "bert/nano", "task": "classify", "context_length": 5}, DataError, "--truncate"),
        ({"start": "bert/huge", "task": "classify"}, ConfigError, "expected one of bert/nano"),
    ],
)
def test_refused_with_a_line_that_helps(options: dict[str, Any], error: type[Exception], says: str, tmp_path: Path) -> None:
    data = rows_file(tmp_path, [row | ({"label": "x"} if options.get("data") else {}) for row in reviews(30)])
    asked = options | {"data": data, "runs": tmp_path, "name": "x"}
    with pytest.raises(error, match=says):
        danlu.train(asked.pop("start"), **asked)


def test_a_masked_text_wants_a_mask(folders: dict[str, Path], tmp_path: Path) -> None:
    assert main(["train", "bert/nano", "--data", str(folders["bpe"]), "--runs", str(tmp_path), "--name", "x", "--steps", "1"]) == 2
    with pytest.raises(ConfigError, match="--tokenizer-kind wordpiece"):
        danlu.train("bert/nano", data=str(folders["bpe"]), runs=tmp_path, name="y", steps=1)


def test_raw_text_is_prepared_with_the_familys_tokenizer(raw: Path, tmp_path: Path) -> None:
    made = danlu.train("bert/nano", data=str(raw), runs=tmp_path, name="x", steps=2, batch_rows=2, context_length=32, **OPTIONS)
    tokenizer = load_model(made.model).tokenizer
    assert tokenizer is not None and tokenizer.mask_id is not None
    assert torch.tensor(tokenizer.encode("river")).numel() >= 1


def test_a_refused_command_does_not_keep_its_name(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    for data in ("gone.jsonl", str(tmp_path / "empty.txt")):
        with pytest.raises((ConfigError, DataError)):
            danlu.train("bert/nano", data=data, runs=tmp_path, name="x", steps=1)
    given = {"data": str(raw), "runs": tmp_path, "name": "x", "steps": 1, "batch_rows": 2, "context_length": 32} | OPTIONS
    assert danlu.train("bert/nano", **given).steps == 1
    with pytest.raises(ConfigError, match="is there already"):
        danlu.train("bert/nano", **given)
