"""A Chinese GPT, trained here on poems alone, answers the mission's prompt in Chinese."""

from __future__ import annotations

from pathlib import Path

import danlu
from danlu.base.fetching import path_of

PROMPT = "OpenAI的大模型是一种强大的技术，"


def share_of_chinese(text: str) -> float:
    """Characters among the unified ideographs, of all; punctuation and line ends are none."""
    return sum("\u4e00" <= character <= "\u9fff" for character in text) / len(text)


def test_a_gpt_trained_on_poems_answers_in_chinese_and_never_breaks_a_character(tmp_path: Path) -> None:
    poems = sorted(Path(path_of("chinese-poetry")).glob("quantangshi/poet.tang.*000.json"))[:6]
    danlu.prepare(*poems, out=tmp_path / "text", vocabulary_size=4096)
    made = danlu.train("gpt/nano", data=tmp_path / "text", steps=450, runs=tmp_path, name="poems", precision="float32")
    answers = []
    with danlu.load(made.run) as model:
        for seed in range(6):
            how = {"max_tokens": 60, "temperature": 0.7, "seed": seed}
            pieces = [piece.text for piece in model.stream(PROMPT, **how)]
            answers.append(model.generate(PROMPT, **how).text)
            assert "".join(pieces) == answers[-1]
            assert not any("\ufffd" in piece for piece in pieces)
            assert len(pieces) > 1
    assert share_of_chinese("".join(answers)) >= 0.7
