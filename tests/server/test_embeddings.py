"""/v1/embeddings as the current openai package asks for it, with hostile input, long lists and clients that leave."""

from __future__ import annotations

import base64
import json
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch

from danlu.base.errors import RequestError
from danlu.inference.embedding import Embedder
from danlu.inference.model import load
from danlu.server.app import Service
from danlu.server.embeddings import MOST_OPEN
from danlu.server.schema import MOST_INPUTS
from tests.inference.encoder import LONGEST, SENTENCES, wordpiece, write_encoder

from .conftest import Running, start
from .test_errors import HOSTILE, LITERALS, check, post

TEXTS = [text * (1 + place % 3) for place, text in enumerate(SENTENCES)] * 3


def vectors(reply: Any) -> torch.Tensor:
    assert [entry.index for entry in reply.data] == list(range(len(reply.data)))
    return torch.tensor([entry.embedding for entry in reply.data])


@pytest.mark.parametrize("name", ["encoder", "tiny", "davinci-codex"])
def test_vectors_are_the_models_in_order(running: Running, name: str) -> None:
    model = running.service.find(name)
    reply = running.client().embeddings.create(model=name, input=TEXTS)  # the client asks for base64 by itself
    assert (reply.object, reply.model, reply.data[0].object) == ("list", name, "embedding")
    torch.testing.assert_close(vectors(reply), model.embed(TEXTS), atol=1e-5, rtol=0)
    assert reply.usage.prompt_tokens == reply.usage.total_tokens == sum(map(len, model.embedder.read(TEXTS)))
    one = running.client().embeddings.create(model=name, input=TEXTS[0])
    torch.testing.assert_close(vectors(one), model.embed(TEXTS[0]), atol=1e-5, rtol=0)


def test_base64_and_floats_are_the_same_numbers(running: Running) -> None:
    body = {"model": "encoder", "input": ["The river", "😀"], "user": "me"}
    plain = post(running, "embeddings", body)
    coded = post(running, "embeddings", body | {"encoding_format": "base64"})
    assert "warnings" not in plain.headers
    for one, other in zip(plain.json()["data"], coded.json()["data"], strict=True):
        found = np.frombuffer(base64.b64decode(other["embedding"]), dtype="<f4")
        assert found.tolist() == one["embedding"] and len(found) == 32


def test_token_ids_are_read_as_such(running: Running) -> None:
    rows = [wordpiece().encode_model_input(text).ids.tolist() for text in SENTENCES]
    expected = running.service.models["encoder"].embed(SENTENCES)
    for given, rows_expected in ((rows, expected), (rows[0], expected[:1])):
        found = vectors(running.client().embeddings.create(model="encoder", input=given))
        torch.testing.assert_close(found, rows_expected, atol=1e-5, rtol=0)


def test_fewer_dimensions_are_cut_and_of_unit_length(running: Running) -> None:
    whole = running.service.models["encoder"].embed(SENTENCES)
    for count in (1, 7, 32):
        found = vectors(running.client().embeddings.create(model="encoder", input=SENTENCES, dimensions=count))
        torch.testing.assert_close(found, torch.nn.functional.normalize(whole[:, :count], dim=-1), atol=1e-5, rtol=0)
    for count in (0, -1, 33, 10**400):
        error = check(post(running, "embeddings", {"model": "encoder", "input": "x", "dimensions": count}), 400, "dimensions")
        assert "1 to 32" in error["message"]


def test_a_text_too_long_is_refused_with_both_lengths_or_cut_when_asked(running: Running) -> None:
    body = {"model": "encoder", "input": ["x", "river " * 100]}
    error = check(post(running, "embeddings", body), 400, "input")
    assert error["code"] == "context_length_exceeded" and "102 tokens" in error["message"] and str(LONGEST) in error["message"]
    reply = running.client().embeddings.create(**body, extra_body={"truncate_prompt_tokens": -1})
    assert reply.usage.prompt_tokens == LONGEST + 3
    torch.testing.assert_close(vectors(reply), running.service.models["encoder"].embed(body["input"], truncate=True), atol=1e-5, rtol=0)
    check(post(running, "embeddings", body | {"truncate_prompt_tokens": 7}), 400, "truncate_prompt_tokens")
    many = body | {"input": ["x"] * 200 + ["river " * 100]}
    assert check(post(running, "embeddings", many), 400, "input")["message"].startswith("text 200 is 102 tokens")
    assert len(vectors(running.client().embeddings.create(**many, extra_body={"truncate_prompt_tokens": -1}))) == 201


@pytest.mark.parametrize("name", ["model", "input", "encoding_format", "dimensions", "truncate_prompt_tokens", "user"])
def test_hostile_values_never_break_the_server(running: Running, name: str) -> None:
    rest = json.dumps({key: value for key, value in {"model": "encoder", "input": "x"}.items() if key != name})[1:]
    for literal in [json.dumps(value) for value in HOSTILE] + LITERALS:
        reply = post(running, "embeddings", f'{{"{name}": {literal}{", " if len(rest) > 1 else ""}{rest}')
        assert reply.status_code in (200, 400, 404), (literal, reply.text)
        if reply.status_code != 200:
            check(reply)


@pytest.mark.parametrize(
    "given",
    [
        [],
        [[]],
        [[], [1]],
        [1, "x"],
        ["x", 1],
        ["x", None],
        ["x", [1]],
        [True],
        [1.5],
        [-1],
        [10**6],
        [2**63],
        [[10**400]],
        {"text": "x"},
        ["x"] * (MOST_INPUTS + 1),
    ],
)
def test_inputs_that_cannot_be_read_are_refused(running: Running, given: Any) -> None:
    check(post(running, "embeddings", {"model": "encoder", "input": given}), 400, "input")


def test_missing_and_unknown_models_and_fields(running: Running) -> None:
    check(post(running, "embeddings", {"input": "x"}), 400, "model")
    check(post(running, "embeddings", {"model": "encoder"}), 400, "input")
    assert check(post(running, "embeddings", {"model": "gone", "input": "x"}), 404, "model")["code"] == "model_not_found"
    check(post(running, "embeddings", {"model": "ids", "input": "text"}), 400, "input")
    assert post(running, "engines/encoder/embeddings", {"input": "x"}).json()["model"] == "encoder"
    assert "colour" in post(running, "embeddings", {"model": "encoder", "input": "x", "colour": 1}).headers["warnings"]


@pytest.mark.parametrize(
    ("route", "body"),
    [("completions", {"prompt": "x"}), ("completions", {}), ("chat/completions", {"messages": [{"role": "user", "content": "x"}]})],
)
@pytest.mark.parametrize("stream", [True, False])
def test_an_encoder_says_that_it_does_not_generate(running: Running, route: str, body: dict[str, Any], stream: bool) -> None:
    error = check(post(running, route, {"model": "encoder", "stream": stream, **body}), 400, "model")
    assert error["code"] == "not_supported" and "/v1/embeddings" in error["message"]


def test_health_and_models_tell_of_encoders(running: Running) -> None:
    assert running.http.get(f"{running.root}/health").json()["models"]["encoder"] == {"status": "ok", "running": 0, "waiting": 0}
    assert running.http.get(f"{running.url}/models/encoder").json()["context_length"] == LONGEST
    schema = running.http.get(f"{running.root}/openapi.json").json()["paths"]["/v1/embeddings"]["post"]["requestBody"]
    assert "encoding_format" in schema["content"]["application/json"]["schema"]["properties"]


def test_an_encoder_that_cannot_embed_is_refused_before_it_is_served(tmp_path: Path) -> None:
    model = load(str(write_encoder(tmp_path, {"pooling_mode": "mean"}, ("Transformer", "Pooling", "Dense"))))
    with pytest.raises(RequestError, match="Dense"):
        Service({"encoder": model}, {})


class Slow:
    """Makes every batch take a while, and counts them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
        self.batches, plain = 0, Embedder.vectors

        def vectors(embedder: Embedder, rows: Any) -> torch.Tensor:
            self.batches += 1
            time.sleep(seconds)
            return plain(embedder, rows)

        monkeypatch.setattr(Embedder, "vectors", vectors)


MANY = [[5] * LONGEST] * 1000  # 24 batches


def test_a_long_list_lets_others_pass_and_ends_when_its_client_leaves(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = Slow(monkeypatch, 0.1)
    state = running.service.embeddings[running.service.models["encoder"]]
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{running.url}/embeddings", json={"model": "encoder", "input": MANY}, timeout=0.5)
    until = time.monotonic() + 2
    while state.open and time.monotonic() < until:
        time.sleep(0.01)
    assert state.open == 0 and slow.batches < 12
    thread = threading.Thread(target=lambda: post(running, "embeddings", {"model": "encoder", "input": MANY}))
    thread.start()
    while not state.open:
        time.sleep(0.01)
    replies = [post(running, "embeddings", {"model": "encoder", "input": "x"}) for _ in range(3)]
    passed = thread.is_alive()
    thread.join()
    assert passed and [reply.status_code for reply in replies] == [200] * 3


def test_a_full_queue_and_a_stopping_server_say_so(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    running, server, thread = start({"encoder": load(str(folders["encoder"]))}, {})
    state = running.service.embeddings[running.service.models["encoder"]]
    state.open = MOST_OPEN
    reply = post(running, "embeddings", {"model": "encoder", "input": "x"})
    assert check(reply, 429)["code"] == "queue_full" and reply.headers["retry-after"]
    state.open = 0
    Slow(monkeypatch, 0.3)
    found: list[httpx.Response] = []
    asking = threading.Thread(target=lambda: found.append(post(running, "embeddings", {"model": "encoder", "input": MANY})))
    asking.start()
    time.sleep(0.5)
    server.should_exit = True
    asking.join(20)
    thread.join(20)
    assert not thread.is_alive() and check(found[0], 503)["code"] == "engine_stopped"
    with pytest.raises(openai.APIConnectionError):
        running.client().embeddings.create(model="encoder", input="x")
    running.http.close()
