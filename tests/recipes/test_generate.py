from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from danlu.base.errors import ConfigError, RequestError
from danlu.inference.model import load
from danlu.recipes.chat import chat
from danlu.recipes.generate import generate
from tests.inference.tiny import tiny_tokenizer, write_tiny

PROMPT = "OpenAI的大模型是一种强大的技术，"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_tiny(tmp_path_factory.mktemp("models") / "tiny"))


def typed(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Let standard input be a pipe with this content."""
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))


def test_the_answer_streams_to_standard_output(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = generate(tiny, PROMPT, max_tokens=20, seed=1)
    assert capsys.readouterr().out == made.text + "\n"
    with load(tiny) as model:
        assert made.text == model.generate(PROMPT, max_tokens=20, seed=1, temperature=0.7).text
    assert made.completion_tokens <= 20 and made.prompt_tokens > 0 and made.first_token_seconds <= made.wall_seconds


def test_several_answers_come_one_after_the_other(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = generate(tiny, "The river", max_tokens=12, seed=2, n=3, temperature=1.5)
    texts = [choice["text"] for choice in made.choices]
    assert capsys.readouterr().out == "\n---\n".join(texts) + "\n" and len(set(texts)) == 3


def test_json_is_one_object_and_nothing_else(tiny: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = generate(tiny, PROMPT, max_tokens=5, temperature=0, json=True)
    found = json.loads(capsys.readouterr().out)
    assert found["choices"][0]["text"] == made.text and found["completion_tokens"] == made.completion_tokens


def test_a_dash_reads_standard_input(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, PROMPT.encode())
    assert generate(tiny, "-", max_tokens=5, temperature=0).text == generate(tiny, PROMPT, max_tokens=5, temperature=0).text
    typed(monkeypatch, b"\xff\xfe")
    with pytest.raises(RequestError, match="UTF-8"):
        generate(tiny, "-")


def test_without_a_tokenizer_ids_go_in_and_come_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bare = str(write_tiny(tmp_path / "bare", with_tokenizer=False))
    made = generate(bare, "1 2, 3", max_tokens=4, temperature=0)
    assert capsys.readouterr().out.split() == [str(token) for token in made.choices[0]["token_ids"]]
    with pytest.raises(RequestError, match="token ids"):
        generate(bare, "hello")


@pytest.mark.parametrize(
    ("how", "error", "words"),
    [
        ({"top_p": 2}, RequestError, "top_p"),
        ({"max_tokens": -1}, RequestError, "max_tokens"),
        ({"threads": 0}, ConfigError, "threads"),
        ({"prompt": "river " * 400}, RequestError, "320 tokens"),
        ({"model": "/no/such/model"}, ConfigError, "no model"),
    ],
)
def test_mistakes_get_one_line(tiny: str, how: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        generate(how.pop("model", tiny), how.pop("prompt", "x"), **how)
    assert "\n" not in str(caught.value)


def test_chat_keeps_the_conversation(tiny: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    typed(monkeypatch, "Hello\n\n你好\n/exit\nnever\n".encode())
    said = chat(tiny, temperature=0, max_tokens=8, system="river")
    assert [message["role"] for message in said] == ["system", "user", "assistant", "user", "assistant"]
    assert [message["content"] for message in said if message["role"] == "user"] == ["Hello", "你好"]
    answers = [message["content"] for message in said if message["role"] == "assistant"]
    assert capsys.readouterr().out == "".join(answer + "\n" for answer in answers)
    with load(tiny) as model:
        for place in (2, 4):
            assert said[place]["content"] == model.chat(said[:place], temperature=0, max_tokens=8).text


def test_chat_ends_with_its_input(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, b"Hello")
    assert len(chat(tiny, max_tokens=2)) == 2


def test_ctrl_c_stops_the_answer_and_keeps_what_was_said(tiny: str, monkeypatch: pytest.MonkeyPatch) -> None:
    typed(monkeypatch, b"Hello\nAgain\n")
    heard: list[str] = []

    def interrupted(*words: str, **_: Any) -> None:
        heard.append("".join(words))
        if len(heard) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr("builtins.print", interrupted)
    said = chat(tiny, temperature=2, max_tokens=60, seed=1)
    assert [message["role"] for message in said] == ["user", "assistant"] * 2
    assert len(said[1]["content"]) <= len("".join(heard))


def test_a_base_model_points_to_generate(tmp_path: Path) -> None:
    base = str(write_tiny(tmp_path / "base", tokenizer=tiny_tokenizer(template=None)))
    with pytest.raises(ConfigError, match="danlu generate"):
        chat(base)
    with pytest.raises(ConfigError, match="n came"):
        chat(base, n=2)
