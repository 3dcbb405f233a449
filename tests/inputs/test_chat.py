from __future__ import annotations

import sys
import threading
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers
from transformers import AutoTokenizer

from danlu.base.catalog import find
from danlu.base.errors import RequestError
from danlu.base.fetching import path_of
from danlu.base.gguf_file import read_gguf
from danlu.inputs.chat import LONGEST, render
from danlu.inputs.gguf_vocabulary import read_vocabulary
from danlu.inputs.tokenizer import Tokenizer
from danlu.inputs.vocabulary_training import train_bpe

HELLO = [{"role": "user", "content": "hello"}]


def with_template(template: Any) -> Tokenizer:
    return Tokenizer(train_bpe(["abc"], 257).raw, {"eos_token": "<|endoftext|>", "chat_template": template})


@pytest.fixture(scope="module")
def smollm2() -> tuple[Tokenizer, Any]:
    file = path_of(find("smollm2-135m-instruct").name)
    file = file if file.is_file() else next(file.glob("*.gguf"))
    theirs = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    cutting = theirs.backend_tokenizer  # transformers leaves out of a GGUF that SmolLM2's own tokenizer.json sets every digit apart: " ²"
    cutting.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), cutting.pre_tokenizer])
    return read_vocabulary(read_gguf(file)[0], file), theirs


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize(
    "messages",
    [
        HELLO,
        [{"role": "system", "content": "Be brief.\n"}, *HELLO],
        [*HELLO, {"role": "assistant", "content": " Hi! <|im_end|>"}, {"role": "user", "content": "丹炉 😀\n\n"}],
    ],
    ids=["one", "system", "turns"],
)
def test_smollm2_conversations_read_as_transformers_writes_them(smollm2: Any, messages: list[dict[str, str]], prompt: bool) -> None:
    own, theirs = smollm2
    assert own.chat_template == theirs.chat_template
    expected = theirs.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
    assert render(own, messages, add_generation_prompt=prompt) == expected
    assert "hello" in expected


@settings(max_examples=100, deadline=None)
@given(st.text() | st.sampled_from([" ² ¼ Ⅷ ١", "1234 + 5 =\n\n  丹炉 😀, isn't it?", "<|im_start|>user\n\tx  y 2024-01-02<|im_end|>\r\n"]))
def test_smollm2_ids_are_those_of_transformers(smollm2: Any, text: str) -> None:
    own, theirs = smollm2
    assert own.encode(text, special=True) == theirs(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages if m.role == 'user' %}{{ loop.index }}{{ m | tojson(indent=1) }}{% break %}{% endfor %}",
        "{{ bos_token }}{% if tools is not none %}TOOLS{% endif %}{% if documents is not none %}DOCUMENTS{% endif %}{{ eos_token }}",
        "  {% set n = namespace(x='') %}\n  {% for m in messages %}\n{% set n.x = n.x + m.content %}\n{% endfor %}\n{{ n.x | trim }}\n",
        "{% for m in messages %}{% generation %}{{ m.content }}{% endgeneration %};{% endfor %}",
        "{{ messages | tojson(separators=(',', ':'), sort_keys=true) }}",
        "{{ '-' * 7 }}{{ 2 ** 5 }}{{ 3 * 4 }}{{ strftime_now('%Y') }}",
    ],
)
def test_what_templates_use_means_what_it_means_in_transformers(smollm2: Any, template: str) -> None:
    messages = [{"role": "system", "content": " <b>&'é丹\" "}, *HELLO]
    expected = smollm2[1].apply_chat_template(messages, chat_template=template, tokenize=False)
    own = Tokenizer(smollm2[0].raw, smollm2[0].settings | {"chat_template": template})
    assert render(own, messages, add_generation_prompt=False) == expected


def test_of_several_templates_the_default_counts() -> None:
    named = [{"name": "tool_use", "template": "tools"}, {"name": "default", "template": "plain"}]
    assert render(with_template(named), HELLO) == "plain"


def test_a_model_without_template_says_what_to_do() -> None:
    with pytest.raises(RequestError, match="no chat template") as caught:
        render(with_template(None), HELLO)
    assert caught.value.code == "no_chat_template"


REFUSED = {
    "raised by the template": ("{{ raise_exception('roles must alternate') }}", "refuses these messages: roles must alternate"),
    "escape by attributes": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "unsafe"),
    "escape by a global": ("{{ raise_exception.__globals__['sys'] }}", "unsafe"),
    "escape by format": ("{{ '{0.__class__.__mro__}'.format(1) }}", "unsafe"),
    "change of the messages": ("{{ messages.append(1) }}", "not safely callable|unsafe"),
    "a file": ("{% include '/etc/passwd' %}", "fails"),
    "syntax": ("{% for %}", "fails"),
    "a missing field": ("{{ messages[7].content.x }}", "fails"),
    "an error of Python": ("{{ 1 / 0 }}", "division"),
    "a wide loop": ("{% for i in range(10 ** 9) %}{% endfor %}", "Range too big|fails|giant"),
    "nested loops in silence": (
        "{% set r = range(99999) %}{% for a in r %}{% for b in r %}{% for c in r %}{% endfor %}{% endfor %}{% endfor %}",
        "1 s",
    ),
    "a macro without end": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "fails"),
    "a long text": ("{% for i in range(99999) %}{{ 'abcdefghijklmnopqrstuvwxyz' }}{% endfor %}", f"over {LONGEST} characters"),
    "a repeated text": ("{{ 'ab' * 10 ** 9 }}", "giant|repeats"),
    "a repeated list": ("{{ (1000000000 * [1]) | length }}", "repeats"),
    "a giant power": ("{{ 9 ** 9 ** 9 }}", "giant power"),
    "deep brackets": ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "fails"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_hostile_and_broken_templates_are_refused_soon(what: str) -> None:
    template, message = REFUSED[what]
    began = time.thread_time()
    with pytest.raises(RequestError, match=message) as caught:
        render(with_template(template), HELLO)
    assert time.thread_time() - began < 4
    assert caught.value.param == "messages"
    assert "\n" not in str(caught.value)


def test_the_clock_is_taken_away_again_and_threads_do_not_meet() -> None:
    def watch(*_: Any) -> None:
        return None

    before = sys.gettrace()
    found: list[str] = []

    def loop() -> None:
        try:
            render(with_template(REFUSED["nested loops in silence"][0]), HELLO)
        except RequestError:
            stopped.append(True)

    stopped: list[bool] = []
    slow = threading.Thread(target=loop)
    slow.start()
    try:
        sys.settrace(watch)
        for _ in range(50):
            found.append(render(with_template("{{ messages[0].content }}"), HELLO))
        assert sys.gettrace() is watch
    finally:
        sys.settrace(before)
    slow.join()
    assert found == ["hello"] * 50
    assert stopped


@settings(max_examples=50, deadline=None)
@given(st.lists(st.text(), min_size=1))
def test_contents_are_data_and_never_templates(contents: list[str]) -> None:
    tokenizer = with_template("{% for m in messages %}[{{ m.content }}]{% endfor %}")
    messages = [{"role": "user", "content": content + "{{ 7 * 7 }}{% raw %}"} for content in contents]
    assert render(tokenizer, messages) == "".join(f"[{message['content']}]" for message in messages)
