"""What is learnt of a conversation is what serving makes of it: the same ids before each answer, and the answer to its turn's end."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import AddedToken

from danlu.base.errors import RequestError
from danlu.inputs.conversation import answer_ids, chat_ids, end_ids, taught_ids
from danlu.inputs.default_template import CHATML, MARKS, PLAIN, with_template
from danlu.inputs.tokenizer import Tokenizer
from danlu.inputs.vocabulary_training import train_bpe

TEXTS = ["the furnace is hot, isn't it? user assistant system ", "丹炉里炼出来的大模型。", "x = [1, 2, 34]\n\n\tdef f():\n"] * 20
TALK = [
    {"role": "system", "content": " Be brief.\n"},
    {"role": "user", "content": "x = 12\n\n\ty"},
    {"role": "assistant", "content": "im_end hot\n"},
    {"role": "user", "content": "模型 1234"},
    {"role": "assistant", "content": " 大模型。"},
]
TRIMMED = CHATML.replace("message['content']", "message['content'] | trim")
THOUGHTS = (  # as Qwen3: an answer begins with thoughts, which are left out once the conversation has gone on
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m['content'] }}<|im_end|>{{ '\n' }}{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant{{ '\n' }}{% endif %}"
)
WORDS_ONLY = "{% for m in messages %}{{ m['content'] + '\n' }}{% endfor %}"


def make(template: str | None, marks: bool = True) -> Tokenizer:
    learned = train_bpe(TEXTS, 400)
    if marks:
        learned.raw.add_special_tokens([AddedToken(name, normalized=False) for name in MARKS])
    return Tokenizer(learned.raw, learned.settings | ({} if template is None else {"chat_template": template}))


def said(tokenizer: Tokenizer, row: tuple[list[int], list[bool]]) -> list[str]:
    """The stretches that count, control tokens written out."""
    stretches: list[list[int]] = [[]]
    for id, counts in zip(*row, strict=True):
        if counts:
            stretches[-1].append(id)
        elif stretches[-1]:
            stretches.append([])
    return [tokenizer.raw.decode(ids, skip_special_tokens=False) for ids in stretches if ids]


@pytest.mark.parametrize("template", [CHATML, TRIMMED, PLAIN, THOUGHTS, WORDS_ONLY], ids=["chatml", "trim", "plain", "thoughts", "words"])
def test_each_answer_stands_behind_what_serving_asks_with(template: str) -> None:
    tokenizer = make(template)
    rows = taught_ids(tokenizer, TALK)
    for place, end in ((2, 0), (4, 1)):
        asked = chat_ids(tokenizer, TALK[:place])
        whole = asked + answer_ids(tokenizer, TALK[: place + 1])
        held = next((ids, counts) for ids, counts in rows if ids[: len(whole)] == whole)
        assert not held[1][len(asked) - 1] and all(held[1][len(asked) : len(whole)])
        assert whole[-1] in end_ids(tokenizer), end
    assert sum(len(said(tokenizer, row)) for row in rows) == 2
    assert len(rows) == (1 if template in (CHATML, TRIMMED, PLAIN) else 2)


def test_the_answers_words_and_their_end_count_and_nothing_else() -> None:
    (row,) = taught_ids(make(CHATML), TALK)
    assert said(make(CHATML), row) == ["im_end hot\n<|im_end|>", " 大模型。<|im_end|>"]
    (row,) = taught_ids(make(TRIMMED), TALK)
    assert said(make(TRIMMED), row) == ["im_end hot<|im_end|>", "大模型。<|im_end|>"]
    (row,) = taught_ids(make(PLAIN, marks=False), TALK)
    assert said(make(PLAIN, marks=False), row) == ["im_end hot\n<|endoftext|>", " 大模型。<|endoftext|>"]
    thoughts = [text for row in taught_ids(make(THOUGHTS), TALK) for text in said(make(THOUGHTS), row)]
    assert thoughts == ["<think>\n\n</think>\n\nim_end hot\n<|im_end|>", "<think>\n\n</think>\n\n 大模型。<|im_end|>"]


def test_a_forged_control_token_is_learnt_as_text() -> None:
    tokenizer = make(CHATML)
    mark = tokenizer.raw.token_to_id(MARKS[1])
    talk = [{"role": "user", "content": "say <|im_end|>"}, {"role": "assistant", "content": "<|im_end|>, hot"}]
    ((ids, counts),) = taught_ids(tokenizer, talk)
    assert ids[: counts.index(True)] == chat_ids(tokenizer, talk[:1])
    assert [id for id, counted in zip(ids, counts, strict=True) if counted].count(mark) == 1 and ids[-1] == mark
    assert tokenizer.decode(ids[counts.index(True) :]) == "<|im_end|>, hot"


@pytest.mark.parametrize(
    ("template", "says"),
    [
        ("{{ raise_exception('no system') }}", "refuses these messages: no system"),
        ("{% if add_generation_prompt %}a{% else %}b{% endif %}", "otherwise than it asks"),
    ],
)
def test_a_template_that_cannot_teach_says_so(template: str, says: str) -> None:
    with pytest.raises(RequestError, match=says):
        taught_ids(make(template), TALK)


def test_nothing_to_end_an_answer_is_told() -> None:
    tokenizer = make(WORDS_ONLY)
    settings: dict[str, Any] = {name: value for name, value in tokenizer.settings.items() if name != "eos_token"}
    with pytest.raises(RequestError, match="no end of text"):
        taught_ids(Tokenizer(tokenizer.raw, settings), TALK)


def test_a_tokenizer_without_a_template_gets_one_it_can_say() -> None:
    for marks, template in ((True, CHATML), (False, PLAIN)):
        bare = make(None, marks)
        given, told = with_template(bare)
        assert given.chat_template == template and told
        assert bare.chat_template is None and given.fingerprint == bare.fingerprint
        assert with_template(given) == (given, "")
