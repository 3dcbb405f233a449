"""Instruction tuning as a user meets it: rows of conversations in, a model out that answers over the command line and over HTTP."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken
from transformers import AutoTokenizer

import danlu
from danlu.base.errors import ConfigError, DataError
from danlu.base.run import Run
from danlu.cli import main
from danlu.inputs.conversation import chat_ids
from danlu.inputs.default_template import CHATML, MARKS, PLAIN
from danlu.inputs.tokenizer import Tokenizer
from danlu.inputs.vocabulary_training import train_bpe
from danlu.models.loading import save_model
from danlu.models.starting import new_model
from danlu.nn.loss import IGNORED
from danlu.training.config import Options
from danlu.training.lesson import teach
from tests.server.conftest import start

OPTIONS: dict[str, Any] = {"task": "chat", "precision": "float32", "threads": 1}
CITIES = ("Rome", "Paris", "Bern", "Oslo", "Lima", "Cairo", "Delhi", "Tokyo", "Seoul", "Quito")
CITIES += ("Hanoi", "Accra", "Doha", "Dakar", "Kyiv", "Riga", "北京", "Tunis", "Minsk", "Wien")
TALKS = [(f"Which city has the number {number}?", f"{city}, of course.") for number, city in enumerate(CITIES)]


def write(folder: Path, rows: list[dict[str, Any]]) -> str:
    file = folder / "talks.jsonl"
    file.write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    return str(file)


def asked(question: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": question}]


def messages(question: str, answer: str) -> dict[str, Any]:
    return {"messages": [*asked(question), {"role": "assistant", "content": answer}]}


SHAPES = (messages, lambda question, answer: {"prompt": question, "completion": answer})
SHAPES += (lambda question, answer: {"instruction": question, "input": "", "output": answer},)
SHAPES += (lambda question, answer: {"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]},)


@pytest.fixture(scope="module")
def learnt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has learnt TALKS (two of them held out), given in four shapes."""
    runs = tmp_path_factory.mktemp("runs")
    rows = [SHAPES[i % len(SHAPES)](*talk) for i, talk in enumerate(TALKS)]
    danlu.train("gpt/nano", data=write(runs, rows), epochs=80, batch_rows=9, rate=3e-3, runs=runs, name="learnt", **OPTIONS)
    return runs / "learnt"


def test_trained_questions_get_their_answers(learnt: Path) -> None:
    with danlu.load(str(learnt)) as model:
        found = [model.chat(asked(question), temperature=0, max_tokens=30).choices[0] for question, _ in TALKS]
        assert sum(choice.text == answer for choice, (_, answer) in zip(found, TALKS, strict=True)) >= len(TALKS) - 2
        assert {choice.finish_reason for choice in found} == {"stop"}
        assert model.tokenizer.chat_template == PLAIN
        ids = chat_ids(model.tokenizer, asked(TALKS[3][0]))
    theirs = AutoTokenizer.from_pretrained(learnt / "final")
    text = theirs.apply_chat_template(asked(TALKS[3][0]), tokenize=False, add_generation_prompt=True)
    assert theirs(text, add_special_tokens=False).input_ids == ids


def test_the_run_answers_at_the_command_line_and_over_http(
    learnt: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    question, answer = TALKS[0]
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(f"{question}\n".encode()), encoding="utf-8"))
    assert main(["chat", str(learnt), "--temperature", "0", "--max-tokens", "30"]) == 0
    with danlu.load(str(learnt)) as model:
        expected = model.chat(asked(question), temperature=0, max_tokens=30).text
        assert capsys.readouterr().out.strip() == expected
        running, server, thread = start({"learnt": model}, {})
        reply = running.client().chat.completions.create(model="learnt", messages=asked(question), temperature=0, max_tokens=30)
        running.http.close()
        server.should_exit = True
        thread.join(20)
    assert (reply.choices[0].message.content, reply.choices[0].finish_reason) == (expected, "stop")
    assert expected == answer


def test_the_ids_of_training_are_those_of_serving(tmp_path: Path) -> None:
    long = [*messages(*TALKS[16])["messages"], *messages("And  then?\n", "Nothing.")["messages"]]
    data = write(tmp_path, [messages(*talk) for talk in TALKS] + [{"messages": long}])
    loaded, lesson, _ = teach("gpt/nano", Options(data=(data,), task="chat", batch_rows=30), tmp_path)
    assert loaded.tokenizer is not None
    batch = lesson.objective.batch(0)
    lengths = batch.inputs.visible.lengths  # type: ignore[union-attr]
    rows = list(zip(batch.inputs.tokens[0].split(lengths), batch.targets[0].split(lengths), strict=True))
    prompts = [chat_ids(loaded.tokenizer, asked(question)) for question, _ in TALKS] + [chat_ids(loaded.tokenizer, long[:3])]
    begun = 0
    for tokens, targets in rows:
        places = (targets != IGNORED).nonzero()[:, 0]
        assert torch.equal(targets[places[:-1]][:5], tokens[places[:-1] + 1][:5])
        begun += any(tokens[: len(prompt)].tolist() == prompt and targets[len(prompt) - 1] != IGNORED for prompt in prompts)
        assert loaded.tokenizer.decode(targets[places].tolist()) in {answer for _, answer in TALKS} | {TALKS[16][1] + "Nothing."}
    assert begun == len(rows) >= 18


def test_an_adapter_learns_conversations_over_a_base_with_marks(tmp_path: Path) -> None:
    learned = train_bpe([f"user assistant {question} {answer}" for question, answer in TALKS], 400)
    learned.raw.add_special_tokens([AddedToken(mark, normalized=False) for mark in MARKS])
    base = new_model("gpt/nano", Tokenizer(learned.raw, learned.settings))
    (tmp_path / "base").mkdir()
    save_model(base.module, base.family, base.tokenizer, tmp_path / "base")
    data = write(tmp_path, [messages(*TALKS[i % 2]) for i in range(40)])
    given = OPTIONS | {"data": data, "adapt": "lora", "steps": 60, "rate": 1e-2, "batch_rows": 4, "runs": tmp_path}
    made = danlu.train(str(tmp_path / "base"), name="a", **given)
    assert made.val_accuracy is None
    with danlu.load(made.run) as model:
        assert model.tokenizer.chat_template == CHATML
        known = [model.chat(asked(question), temperature=0, max_tokens=30).text == answer for question, answer in TALKS[:2]]
    assert any(known)
    danlu.train(str(tmp_path / "base"), name="cut", checkpoint_every=25, **given)
    for place in Run(tmp_path / "cut").checkpoints()[1:]:
        place.rename(tmp_path / place.name)
    danlu.train(str(tmp_path / "cut"), resume=True)
    losses = [[float(row["loss_nats"]).hex() for row in Run(tmp_path / name).metrics() if "kind" not in row] for name in ("a", "cut")]
    assert losses[0] == losses[1]


def test_long_conversations_are_refused_or_cut(tmp_path: Path) -> None:
    rows = [messages(*talk) for talk in TALKS] + [messages("long?", "a b c " * 100)]
    given = OPTIONS | {"data": write(tmp_path, rows), "steps": 1, "context_length": 48, "runs": tmp_path}
    with pytest.raises(DataError, match=r"begins 'long\?' is \d+ tokens long and the model reads 48; .*--truncate"):
        danlu.train("gpt/nano", name="x", **given)
    assert danlu.train("gpt/nano", name="y", truncate=True, **given).steps == 1
    with pytest.raises(DataError, match="nothing is left to learn"):
        danlu.train("gpt/nano", name="z", truncate=True, **given | {"context_length": 2})


@pytest.mark.parametrize("size", ["bert/nano", "seq2seq/nano"])
def test_what_does_not_go_on_from_a_text_is_refused(size: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="begins from a decoder"):
        danlu.train(size, data=write(tmp_path, [messages(*talk) for talk in TALKS]), steps=1, runs=tmp_path, name="x", **OPTIONS)


def test_a_recurrent_network_learns_them_padded(tmp_path: Path) -> None:
    data = write(tmp_path, [messages(*TALKS[i % 2]) for i in range(40)])
    made = danlu.train("rnn/gru-nano", data=data, steps=60, rate=5e-3, batch_rows=4, runs=tmp_path, name="x", **OPTIONS)
    assert made.train_loss_nats < 0.5


def test_a_template_may_refuse_a_few_conversations(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    learned = train_bpe([f"user assistant {question} {answer}" for question, answer in TALKS], 400)
    strict = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system') }}{% endif %}" + PLAIN
    base = new_model("gpt/nano", Tokenizer(learned.raw, learned.settings | {"chat_template": strict}))
    (tmp_path / "base").mkdir()
    save_model(base.module, base.family, base.tokenizer, tmp_path / "base")
    rows = [messages(f"{i}? {question}", answer) for i in range(3) for question, answer in TALKS]
    rows[4]["messages"].insert(0, {"role": "system", "content": "Be brief."})
    given = OPTIONS | {"steps": 1, "runs": tmp_path}
    danlu.train(str(tmp_path / "base"), data=write(tmp_path, rows), name="a", **given)
    assert "set aside the conversation that begins 'Be brief.': the model's chat template refuses" in capsys.readouterr().err
    for row in rows[5:20]:
        row["messages"].insert(0, {"role": "system", "content": "Be brief."})
    with pytest.raises(DataError, match="conversations only"):
        danlu.train(str(tmp_path / "base"), data=write(tmp_path, rows), name="b", **given)
