"""Many clients at once, clients that leave, failures midway, and the end of the server."""

from __future__ import annotations

import asyncio
import json
import logging
import random
import socket
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from danlu.inference.backend import Logits, Part
from danlu.inference.model import Model, load
from danlu.inference.request import Limits

from .conftest import Running, start

draw = random.Random(3)
TEXTS = ["The river", "OpenAI的大模型是一种强大的技术，", "one two", "😀 " * 30, "Hello world " * 12]


def wait_until_idle(model: Model, seconds: float) -> None:
    until = time.monotonic() + seconds
    while (model.engine.status().running or model.engine.status().waiting) and time.monotonic() < until:
        time.sleep(0.01)
    assert (model.engine.status().running, model.engine.status().waiting) == (0, 0)


def test_sixteen_clients_get_the_answers_they_get_alone(running: Running) -> None:
    model = running.service.models["tiny"]
    asked = []
    for number in range(48):
        how = {"max_tokens": draw.choice([3, 20, 60]), "n": draw.choice([1, 1, 3])}
        how |= {"temperature": 0} if number % 3 else {"temperature": 0.8, "seed": number}
        asked.append((TEXTS[number % len(TEXTS)], how, number % 2 == 0))
    expected = [[choice.text for choice in model.generate(text, **how).choices] for text, how, _ in asked]

    async def ask(client: openai.AsyncOpenAI, text: str, how: dict[str, Any], stream: bool) -> list[str]:
        if not stream:
            return [choice.text for choice in (await client.completions.create(model="tiny", prompt=text, **how)).choices]
        said = [""] * how["n"]
        async for chunk in await client.completions.create(model="tiny", prompt=text, stream=True, **how):
            said[chunk.choices[0].index] += chunk.choices[0].text
        return said

    async def crowd() -> list[list[str]]:
        async with openai.AsyncOpenAI(api_key="any", base_url=running.url, max_retries=0, timeout=60) as client:
            gate = asyncio.Semaphore(16)

            async def one(text: str, how: dict[str, Any], stream: bool) -> list[str]:
                async with gate:
                    return await ask(client, text, how, stream)

            return await asyncio.gather(*(one(*entry) for entry in asked))

    assert asyncio.run(crowd()) == expected
    wait_until_idle(model, 2)


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_frees_its_place(running: Running, stream: bool) -> None:
    model = running.service.models["tiny"]
    body = {"model": "tiny", "prompt": ["x", "y"], "max_tokens": 300, "temperature": 2, "n": 16, "stream": stream, "logit_bias": {}}
    for token in (0, *sorted(model.engine.end_ids)):
        body["logit_bias"][str(token)] = -100
    for _ in range(5):
        try:
            with httpx.stream("POST", f"{running.url}/completions", json=body, timeout=0.15 if not stream else 10) as reply:
                next(reply.iter_lines())
        except httpx.ReadTimeout:
            pass
    wait_until_idle(model, 2)


def test_a_full_queue_says_when_to_come_back(running: Running) -> None:
    model = running.service.models["tiny"]
    body = {"model": "tiny", "prompt": ["x"] * 64, "max_tokens": 300, "n": 16, "temperature": 2}

    async def crowd() -> list[httpx.Response]:
        async with httpx.AsyncClient(timeout=2) as client:
            tasks = [client.post(f"{running.url}/completions", json=body) for _ in range(4)]
            return [reply for reply in await asyncio.gather(*tasks, return_exceptions=True) if isinstance(reply, httpx.Response)]

    replies = asyncio.run(crowd())
    assert replies and {reply.status_code for reply in replies} == {429}
    assert all(int(reply.headers["retry-after"]) > 0 and reply.json()["error"]["code"] == "queue_full" for reply in replies)
    wait_until_idle(model, 5)


def test_slow_clients_do_not_hold_up_others(running: Running) -> None:
    host, port = running.root.removeprefix("http://").split(":")
    slow = [socket.create_connection((host, int(port))) for _ in range(200)]
    try:
        for number, connection in enumerate(slow):
            connection.sendall(
                b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\n" + (b"Content-Length: 100\r\n\r\n{" if number % 2 else b"")
            )
        began = time.monotonic()
        assert httpx.get(f"{running.root}/health").status_code == 200
        assert time.monotonic() - began < 1
    finally:
        for connection in slow:
            connection.close()


def test_prompts_stand_in_no_log_and_no_error(running: Running, caplog: pytest.LogCaptureFixture) -> None:
    canary = "canary7291"
    with caplog.at_level(logging.DEBUG):
        for body in (
            {"model": "tiny", "prompt": canary, "max_tokens": 2},
            {"model": "tiny", "prompt": canary * 500, "max_tokens": 2},
            {"model": "tiny", "messages": [{"role": "user", "content": canary}], "max_tokens": 2},
        ):
            route = "completions" if "prompt" in body else "chat/completions"
            reply = httpx.post(f"{running.url}/{route}?q={canary}", json=body, headers={"authorization": f"Bearer {canary}"})
            assert canary not in reply.text
        httpx.get(f"{running.root}/{canary}")
    ours = [record.getMessage() for record in caplog.records if record.name.startswith(("danlu", "uvicorn"))]
    assert ours and not any(canary in line for line in ours)


Compute = Callable[[Sequence[Part]], list[Logits | None]]


def failing(compute: Compute) -> Compute:
    """Breaks once an answer has 20 positions behind it."""

    def failing(parts: Sequence[Part]) -> list[Logits | None]:
        if any(part.sequence.computed + part.count > 21 for part in parts):
            raise RuntimeError("secret detail")
        return compute(parts)

    return failing


def test_an_event_is_one_line_whatever_is_said(running: Running) -> None:
    """httpx ends lines as Python's splitlines does, at characters that JSON need not escape."""
    prompt = "one\u2028two\u2029three\x85four\x0b\x0c\x1c\r\n丹炉"
    body = {"model": "tiny", "prompt": prompt, "echo": True, "max_tokens": 2, "temperature": 0, "stream": True}
    with httpx.stream("POST", f"{running.url}/completions", json=body, timeout=30) as reply:
        *events, end = [line.removeprefix("data: ") for line in reply.iter_lines() if line]
    assert end == "[DONE]"
    assert "".join(json.loads(event)["choices"][0]["text"] for event in events).startswith(prompt)


def test_a_failure_midway_is_an_error_event_and_never_a_clean_end(folders: dict[str, Path]) -> None:
    broken = load(str(folders["tiny"]))
    broken.engine.backend.compute = failing(broken.engine.backend.compute)
    running, server, thread = start({"broken": broken}, {})
    how = {
        "model": "broken",
        "prompt": "x",
        "max_tokens": 60,
        "temperature": 2,
        "logit_bias": {str(end): -100 for end in broken.engine.end_ids},
    }
    said = ""
    with running.client() as client:  # closed, not left to the garbage collector: errors hold on to it
        with pytest.raises(openai.APIError) as caught:
            for chunk in client.completions.create(stream=True, **how):
                said += chunk.choices[0].text
        assert caught.value.body["code"] == "engine_failure" and "secret" not in str(caught.value) and said
        with pytest.raises(openai.InternalServerError) as failed:
            client.completions.create(**how)
        assert "secret" not in str(failed.value)
        assert client.completions.create(model="broken", prompt="x", max_tokens=2).choices[0].finish_reason
    with httpx.stream("POST", f"{running.url}/completions", json={**how, "stream": True}) as reply:
        lines = [line for line in reply.iter_lines() if line]
    assert lines[-2] == "event: error" and "[DONE]" not in "".join(lines)
    server.should_exit = True
    thread.join(20)


def test_stopping_ends_every_stream_whole_or_with_an_error(folders: dict[str, Path]) -> None:
    model = load(str(folders["tiny"]), limits=Limits(sequences=16))
    running, server, thread = start({"tiny": model}, {})
    model.engine.backend.compute = slowed(model.engine.backend.compute)
    ends = {str(end): -100 for end in model.engine.end_ids}
    outcomes: list[str] = []
    begun = threading.Semaphore(0)
    client = httpx.Client(timeout=30)

    def ask(count: int) -> None:
        body = {"model": "tiny", "prompt": "x", "max_tokens": count, "stream": True, "logit_bias": ends}
        with client.stream("POST", f"{running.url}/completions", json=body) as reply:
            begun.release()
            lines = [line for line in reply.iter_lines() if line]
        outcomes.append(lines[-1] if lines[-1] == "data: [DONE]" else lines[-2])

    threads = [threading.Thread(target=ask, args=(count,)) for count in (20, 300) * 10]
    for asking in threads:
        asking.start()
    for _ in threads:
        assert begun.acquire(timeout=20)
    began = time.monotonic()
    server.should_exit = True
    for asking in [*threads, thread]:
        asking.join(30)
    client.close()
    assert time.monotonic() - began < 10
    assert len(outcomes) == 20 and set(outcomes) <= {"data: [DONE]", "event: error"} and "event: error" in outcomes


def slowed(compute: Compute) -> Compute:
    def slow(parts: Sequence[Part]) -> list[Logits | None]:
        time.sleep(0.03)
        return compute(parts)

    return slow
