"""What comes back for everything that cannot be answered; no input may lead to a 5xx."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

import danlu
from danlu.inference.sampling import parameters
from danlu.server import schema
from danlu.server.body import MOST_BYTES

from .conftest import Running

HOSTILE = [-1, 0, 2**31, 2**63, 10**400, 1.5, True, None, "1", [], {}, [[[]]]]
LITERALS = ["NaN", "Infinity", "-Infinity", "1e309", "-1e309", "1e-309", "-0.0", '"\\ud800"', '{"\\ud800": 1}', "[" * 200 + "]" * 200]
NUMBERS = [*(name for name in parameters() if name != "prompt_logprobs"), "max_completion_tokens", "top_logprobs"]
BASE = {"completions": {"prompt": "x"}, "chat/completions": {"messages": [{"role": "user", "content": "x"}]}}


def post(running: Running, route: str, body: Any, **headers: str) -> httpx.Response:
    content = body if isinstance(body, bytes | str) else json.dumps(body)
    return running.http.post(f"{running.url}/{route}", content=content, headers={"content-type": "application/json", **headers})


def check(reply: httpx.Response, status: int | None = None, param: str | None = None) -> dict[str, Any]:
    """An error as the OpenAI API tells it."""
    assert reply.status_code == status or status is None, reply.text
    assert reply.headers["x-request-id"].startswith("req-")
    error = reply.json()["error"]
    assert set(error) == {"message", "type", "param", "code"} and error["message"] and "\n" not in error["message"]
    assert not any(word in reply.text for word in ("Traceback", str(Path(danlu.__file__).parents[1]), "site-packages", " at 0x"))
    assert param is None or error["param"] == param
    return dict(error)


@pytest.mark.parametrize("route", BASE)
@pytest.mark.parametrize("name", NUMBERS)
def test_hostile_numbers_never_break_the_server(running: Running, route: str, name: str) -> None:
    start = {"model": "tiny", "max_tokens": 1, **BASE[route]}
    rest = json.dumps({key: value for key, value in start.items() if key != name})[1:]
    for literal in [json.dumps(value) for value in HOSTILE] + LITERALS:
        reply = post(running, route, f'{{"{name}": {literal}, {rest}')
        assert reply.status_code in (200, 400), (literal, reply.text)
        if reply.status_code == 400:
            check(reply)


@pytest.mark.parametrize("route", BASE)
@pytest.mark.parametrize("name", ["model", "prompt", "messages", "stream", "stream_options", "echo", "user"])
def test_hostile_values_of_other_fields_never_break_the_server(running: Running, route: str, name: str) -> None:
    for literal in [json.dumps(value) for value in HOSTILE] + LITERALS:
        rest = json.dumps({key: value for key, value in {"model": "tiny", "max_tokens": 1, **BASE[route]}.items() if key != name})[1:]
        reply = post(running, route, f'{{"{name}": {literal}, {rest}')
        assert reply.status_code in (200, 400, 404), (literal, reply.text)
        if reply.status_code != 200:
            check(reply)


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"n": 17}, "n"),
        ({"n": 10**6}, "n"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 1.1}, "top_p"),
        ({"max_tokens": -5}, "max_tokens"),
        ({"logprobs": 21}, "logprobs"),
        ({"prompt": ["x"] * 65}, "prompt"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [99999]}, "prompt"),
        ({"prompt": [-1]}, "prompt"),
        ({"stop": ["x"] * 17}, "stop"),
        ({"stop": ["x" * 300]}, "stop"),
        ({"logit_bias": {"999999": 1}}, "logit_bias"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        *[({name: "given"}, name) for name in schema.UNSUPPORTED],
        ({"best_of": 2}, "best_of"),
        ({"suffix": "end"}, "suffix"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
    ],
)
def test_a_field_at_fault_is_named(running: Running, change: dict[str, Any], param: str) -> None:
    check(post(running, "completions", {"model": "tiny", "prompt": "x", **change}), 400, param)


@pytest.mark.parametrize(
    "messages",
    [
        [],
        [{}],
        [{"role": "robot", "content": "x"}],
        [{"role": ["user"], "content": "x"}],
        [{"role": "user"}],
        [{"role": "user", "content": None}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}]}],
        [{"role": "user", "content": ["x"]}],
        [{"role": "assistant", "content": "x", "tool_calls": [{}]}],
        [{"role": "user", "content": "x"}] * 3000,
    ],
)
def test_messages_that_cannot_be_read_are_refused(running: Running, messages: Any) -> None:
    check(post(running, "chat/completions", {"model": "tiny", "messages": messages}), 400, "messages")


def test_missing_and_unknown_models(running: Running) -> None:
    check(post(running, "completions", {"prompt": "x"}), 400, "model")
    assert check(post(running, "completions", {"model": "gone", "prompt": "x"}), 404, "model")["code"] == "model_not_found"
    check(post(running, "engines/gone/completions", {"prompt": "x"}), 404, "model")
    check(post(running, "chat/completions", {"model": "tiny"}), 400, "messages")


def test_a_prompt_that_does_not_fit_names_both_lengths(running: Running) -> None:
    model = running.service.models["tiny"]
    text = "river " * 300
    error = check(post(running, "completions", {"model": "tiny", "prompt": text}), 400, "prompt")
    assert error["code"] == "context_length_exceeded"
    assert str(len(model.encode(text))) in error["message"] and str(model.config.context_length) in error["message"]
    check(post(running, "completions", {"model": "tiny", "prompt": text, "stream": True}), 400, "prompt")


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"a":' * 100_000, b'{"x": 1' + b"0" * 6000 + b"}", b'"text"'])
def test_bodies_that_are_no_object_are_refused(running: Running, body: bytes) -> None:
    check(post(running, "completions", body), 400)


def test_a_body_too_large_is_refused_without_being_kept(running: Running) -> None:
    before = psutil.Process().memory_info().rss
    piece = b" " * 2**16

    def endless() -> Any:
        for _ in range(MOST_BYTES // len(piece) * 3):
            yield piece

    for content in (endless(), b" " * (MOST_BYTES + 1)):
        reply = running.http.post(f"{running.url}/completions", content=content, timeout=30)
        assert check(reply, 413)["code"] == "body_too_large"
    assert psutil.Process().memory_info().rss - before < 60 * 2**20


def test_caps_hold_before_any_work(running: Running) -> None:
    before, began = psutil.Process().memory_info().rss, time.monotonic()
    for change in ({"n": 10**6}, {"logprobs": 10**6}, {"prompt": ["x"] * 10**5}, {"stop": ["x"] * 10**5}):
        check(post(running, "completions", {"model": "tiny", "prompt": "x", **change}), 400)
    assert time.monotonic() - began < 5
    assert psutil.Process().memory_info().rss - before < 50 * 2**20


def test_wrong_addresses_and_methods(running: Running) -> None:
    check(running.http.get(f"{running.root}/nothing/here"), 404)
    check(running.http.get(f"{running.url}/completions"), 405)
    check(running.http.post(f"{running.root}/health"), 405)
    check(running.http.get(f"{running.url}/models/../../etc/passwd"), 404)
    check(running.http.get(f"{running.url}/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd"), 404)


def every_route(running: Running) -> list[tuple[str, str]]:
    from danlu.server.app import make_app

    found = []
    for route in make_app(running.service).routes:
        path = getattr(route, "path", "").replace("{name:path}", "tiny").replace("{engine:path}", "tiny")
        found += [(method, path) for method in getattr(route, "methods", None) or ()]
    return found


def test_every_route_refuses_foreign_hosts_and_pages(running: Running) -> None:
    routes = every_route(running)
    assert {path for _, path in routes} >= {"/v1/completions", "/health", "/openapi.json", "/v1/models"}
    port = running.root.rsplit(":", 1)[1]
    for method, path in [*routes, ("GET", "/nothing")]:
        for headers in (
            {"host": "evil.example"},
            {"host": f"evil.example:{port}"},
            {"host": "127.0.0.1.evil.example"},
            {"host": "127.0.0.1@evil.example"},
            {"host": "localhost.evil.example"},
            {"host": ""},
            {"host": "[::1"},
            {"origin": "http://evil.example"},
            {"origin": "null"},
        ):
            assert running.http.request(method, running.root + path, headers=headers).status_code == 403, (method, path, headers)
    for host in (f"localhost:{port}", "127.0.0.1", "[::1]:80", "LOCALHOST"):
        assert running.http.get(f"{running.root}/health", headers={"host": host}).status_code == 200


def test_any_key_is_accepted_while_there_are_none(running: Running) -> None:
    for headers in ({}, {"authorization": "Bearer anything"}, {"authorization": "\x7f broken"}):
        assert running.http.get(f"{running.url}/models", headers=headers).status_code == 200
