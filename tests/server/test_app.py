"""The OpenAI API as the current openai package speaks it."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest
import torch

from danlu.inputs.conversation import chat_ids

from .conftest import Running

PROMPT = "OpenAI的大模型是一种强大的技术，"
HELLO = [{"role": "user", "content": "Hello 🐉"}]


def test_models_by_name_and_alias(running: Running) -> None:
    client = running.client()
    assert {entry.id for entry in client.models.list()} == {"tiny", "other", "ids", "encoder", "davinci-codex"}
    assert client.models.retrieve("davinci-codex").id == "davinci-codex"
    with pytest.raises(openai.NotFoundError) as caught:
        client.models.retrieve("gone")
    assert caught.value.code == "model_not_found" and caught.value.param == "model"


def test_completion_says_what_the_model_says(running: Running) -> None:
    model = running.service.models["tiny"]
    for name in ("tiny", "davinci-codex"):
        reply = running.client().completions.create(model=name, prompt=PROMPT, max_tokens=20, temperature=0)
        expected = model.generate(PROMPT, max_tokens=20, temperature=0)
        assert (reply.object, reply.model, reply.choices[0].text) == ("text_completion", name, expected.text)
        assert reply.choices[0].finish_reason == expected.choices[0].finish_reason
        assert reply.usage.prompt_tokens == len(model.encode(PROMPT))
        assert reply.usage.completion_tokens == expected.completion_tokens
        assert reply.usage.total_tokens == reply.usage.prompt_tokens + reply.usage.completion_tokens


def test_defaults_are_those_of_the_openai_api(running: Running) -> None:
    model = running.service.models["tiny"]
    reply = running.client().completions.create(model="tiny", prompt="The", seed=3)
    assert reply.choices[0].text == model.generate("The", max_tokens=16, seed=3, temperature=1).text
    chat = running.client().chat.completions.create(model="tiny", messages=HELLO, seed=3)
    assert chat.choices[0].message.content == model.chat(HELLO, seed=3, temperature=1).text
    assert chat.usage.completion_tokens > 16


def test_chat_says_what_the_model_says(running: Running) -> None:
    expected = running.service.models["tiny"].chat(HELLO, temperature=0, max_tokens=12)
    for content in (HELLO[0]["content"], [{"type": "text", "text": "Hello "}, {"type": "text", "text": "🐉"}]):
        messages = [{"role": "user", "content": content}]
        reply = running.client().chat.completions.create(model="tiny", messages=messages, temperature=0, max_completion_tokens=12)
        assert reply.object == "chat.completion"
        assert (reply.choices[0].message.role, reply.choices[0].message.content) == ("assistant", expected.text)
        assert reply.usage.prompt_tokens == len(chat_ids(running.service.models["tiny"].tokenizer, HELLO))


def test_prompts_as_texts_and_ids_with_several_answers_each(running: Running) -> None:
    model = running.service.models["tiny"]
    texts = ["The river", PROMPT, "one two"]
    how = {"max_tokens": 8, "seed": 9, "n": 2}
    expected = [choice.text for text in texts for choice in model.generate(text, **how).choices]
    for prompt in (texts, [model.encode(text) for text in texts]):
        reply = running.client().completions.create(model="tiny", prompt=prompt, **how)
        assert [choice.text for choice in reply.choices] == expected
        assert [choice.index for choice in reply.choices] == list(range(6))
    one = running.client().completions.create(model="tiny", prompt=model.encode(PROMPT), max_tokens=8, temperature=0)
    assert one.choices[0].text == model.generate(PROMPT, max_tokens=8, temperature=0).text


@pytest.mark.parametrize("extra", [{}, {"echo": True}, {"logprobs": 2}, {"echo": True, "logprobs": 1}])
def test_streamed_completions_join_to_the_whole(running: Running, extra: dict[str, Any]) -> None:
    how = {"model": "tiny", "prompt": [PROMPT, "😀"], "max_tokens": 20, "seed": 4, "n": 2, "temperature": 1.5, **extra}
    whole = running.client().completions.create(**how)
    texts, reasons, tokens = [""] * 4, [None] * 4, [[] for _ in range(4)]
    usage = None
    for chunk in running.client().completions.create(**how, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason or reasons[choice.index]
            if choice.logprobs:
                tokens[choice.index] += zip(choice.logprobs.tokens, choice.logprobs.text_offset, strict=True)
    assert texts == [choice.text for choice in whole.choices]
    assert reasons == [choice.finish_reason for choice in whole.choices]
    assert usage == whole.usage
    if "logprobs" in extra:
        assert tokens == [list(zip(choice.logprobs.tokens, choice.logprobs.text_offset, strict=True)) for choice in whole.choices]


def test_streamed_chats_join_to_the_whole(running: Running) -> None:
    how = {"model": "tiny", "messages": HELLO, "max_tokens": 25, "seed": 2, "logprobs": True, "top_logprobs": 2}
    whole = running.client().chat.completions.create(**how).choices[0]
    chunks = [chunk.choices[0] for chunk in running.client().chat.completions.create(**how, stream=True)]
    assert chunks[0].delta.role == "assistant"
    assert "".join(chunk.delta.content or "" for chunk in chunks) == whole.message.content
    assert chunks[-1].finish_reason == whole.finish_reason and not any(chunk.finish_reason for chunk in chunks[:-1])
    assert [entry for chunk in chunks if chunk.logprobs for entry in chunk.logprobs.content] == whole.logprobs.content


def test_streams_end_in_done_with_ids_throughout(running: Running) -> None:
    body = {"model": "tiny", "prompt": "x", "max_tokens": 3, "stream": True}
    with running.http.stream("POST", f"{running.url}/completions", json=body) as reply:
        assert reply.headers["content-type"].startswith("text/event-stream") and reply.headers["x-request-id"].startswith("req-")
        lines = [line for line in reply.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    pieces = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
    assert len({piece["id"] for piece in pieces}) == 1 and all("usage" not in piece for piece in pieces)
    assert pieces[-1]["choices"][0]["finish_reason"] in ("length", "stop")


def test_echo_with_logprobs_scores_the_prompt(running: Running) -> None:
    """What lm-eval asks for: the log-likelihood of a given text."""
    model = running.service.models["tiny"]
    text = "The river 😀 and the 大模型"
    ids = model.encode(text)
    logits = model.logits(ids)[0].log_softmax(-1)
    for count in (0, 1):
        reply = running.client().completions.create(model="tiny", prompt=text, echo=True, logprobs=1, max_tokens=count, temperature=0)
        found = reply.choices[0].logprobs
        assert reply.choices[0].text.startswith(text) and found.token_logprobs[0] is None and found.top_logprobs[0] is None
        expected = [float(logits[place, token]) for place, token in enumerate(ids[1:])]
        assert found.token_logprobs[1 : len(ids)] == pytest.approx(expected, abs=1e-3)
        for place, best in enumerate(logits[: len(ids) - 1].max(-1).values):
            assert max(found.top_logprobs[place + 1].values()) == pytest.approx(float(best), abs=1e-3)
        assert found.text_offset == sorted(found.text_offset) and found.text_offset[0] == 0
        for name, offset in zip(found.tokens[: len(ids)], found.text_offset, strict=False):
            if not name.startswith("bytes:"):
                assert text[offset : offset + len(name)] == name
        if count == 0:
            assert reply.choices[0].text == text and reply.usage.completion_tokens == 0 and len(found.tokens) == len(ids)


def test_chat_logprobs_carry_bytes_and_alternatives(running: Running) -> None:
    reply = running.client().chat.completions.create(
        model="tiny", messages=HELLO, max_tokens=20, temperature=0, logprobs=True, top_logprobs=3
    )
    entries = reply.choices[0].logprobs.content
    for entry in entries:
        assert len(entry.top_logprobs) == 3 and entry.logprob == entry.top_logprobs[0].logprob <= 0
    joined = b"".join(bytes(entry.bytes) for entry in entries if not entry.token.startswith("<|"))
    assert joined.decode("utf-8", "replace")[:5] == reply.choices[0].message.content[:5]


def test_stop_strings_and_true_finish_reasons(running: Running) -> None:
    model = running.service.models["tiny"]
    free = model.generate("The river", temperature=0, max_tokens=40).text
    for stop in (free[8:11], [free[8:11], "never there"]):
        reply = running.client().completions.create(model="tiny", prompt="The river", temperature=0, max_tokens=40, stop=stop)
        assert reply.choices[0].text == free[: free.find(free[8:11])] and reply.choices[0].finish_reason == "stop"
    cut = running.client().completions.create(model="tiny", prompt="The river", temperature=0, max_tokens=2)
    assert cut.choices[0].finish_reason == "length"


def test_models_without_a_tokenizer_take_and_give_ids(running: Running) -> None:
    reply = running.client().completions.create(model="ids", prompt=[1, 2, 3], max_tokens=5, temperature=0)
    ids = torch.tensor([1, 2, 3])
    assert reply.choices[0].token_ids == running.service.models["ids"].generate(ids, max_tokens=5, temperature=0).choices[0].token_ids
    with pytest.raises(openai.BadRequestError) as caught:
        running.client().completions.create(model="ids", prompt="text")
    assert caught.value.param == "prompt"


def test_a_model_without_a_template_says_so(running: Running) -> None:
    with pytest.raises(openai.BadRequestError, match="no chat template"):
        running.client().chat.completions.create(model="other", messages=HELLO)


def test_health_tells_of_every_engine(running: Running) -> None:
    reply = running.http.get(f"{running.root}/health")
    assert reply.status_code == 200 and reply.json()["status"] == "ok"
    assert reply.json()["models"]["tiny"] == {"status": "ok", "running": 0, "waiting": 0}


def test_the_description_lists_every_sampling_field(running: Running) -> None:
    described = running.http.get(f"{running.root}/openapi.json").json()
    content = described["paths"]["/v1/completions"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert {"prompt", "temperature", "top_p", "top_k", "min_p", "seed", "stop", "logit_bias", "echo"} <= set(content["properties"])


def test_unknown_fields_are_named_in_a_header_and_the_answer_comes(running: Running) -> None:
    body = {"model": "tiny", "prompt": "x", "max_tokens": 1, "colour": "red", "bad\r\nname: x": 1, "user": "me", "best_of": 1}
    reply = running.http.post(f"{running.url}/completions", json=body)
    assert reply.status_code == 200
    assert "colour" in reply.headers["warnings"] and "user" not in reply.headers["warnings"] and "name: x" not in reply.headers
