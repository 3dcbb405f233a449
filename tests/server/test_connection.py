"""Connections that bring no request, too many of them, and what is no HTTP."""

from __future__ import annotations

import json
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from pydantic import ValidationError

from danlu.inference.model import load
from danlu.server import connection, schema
from danlu.server.body import MOST_BYTES

from .conftest import Running, start
from .test_errors import check, post


def reach(running: Running) -> socket.socket:
    address = urlsplit(running.url)
    assert address.hostname and address.port
    return socket.create_connection((address.hostname, address.port), timeout=20)


def told(sent: bytes, running: Running) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of the answer to some bytes."""
    with reach(running) as client:
        client.sendall(sent)
        whole = b""
        while part := client.recv(65536):
            whole += part
    head, _, body = whole.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}, body


@pytest.mark.parametrize("sent", [b"garbage\r\n\r\n", b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: x\r\n\r\n"])
def test_what_is_no_http_gets_the_apis_error(sent: bytes, running: Running) -> None:
    status, headers, body = told(sent, running)
    assert status == 400 and headers["x-request-id"].startswith("req-") and headers["content-type"] == "application/json"
    assert set(json.loads(body)["error"]) == {"message", "type", "param", "code"}


def test_http_1_0_needs_no_host(running: Running) -> None:
    assert told(b"GET /health HTTP/1.0\r\n\r\n", running)[0] == 200
    assert told(b"GET /health HTTP/1.0\r\nhost: example.org\r\n\r\n", running)[0] == 403
    assert told(b"GET /health HTTP/1.1\r\nconnection: close\r\n\r\n", running)[0] == 400


@pytest.fixture
def impatient(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Iterator[Running]:
    """A server that looks twice a second."""
    monkeypatch.setattr(connection, "HEAD_SECONDS", 0.5)
    running, server, thread = start({"tiny": load(str(folders["tiny"]))}, {})
    yield running
    running.http.close()
    server.should_exit = True
    thread.join(30)
    assert not thread.is_alive()


@pytest.mark.parametrize("sent", [b"", b"POST /v1/completions HTTP/1.1\r\nhost: lo", b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\nGET"])
def test_a_connection_that_begins_no_request_is_closed(sent: bytes, impatient: Running) -> None:
    with reach(impatient) as client:
        client.sendall(sent)
        began = time.monotonic()
        while client.recv(65536):
            pass
        assert time.monotonic() - began > 0.4, "it was not given the time between two looks"


def test_a_slow_answer_is_no_idle_connection(impatient: Running) -> None:
    said = impatient.http.post(f"{impatient.url}/completions", json={"model": "tiny", "prompt": "a", "max_tokens": 250, "n": 16, "seed": 1})
    assert said.status_code == 200 and len(said.json()["choices"]) == 16


def test_too_many_connections_are_refused_and_others_answered(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    assert connection.most_connections() <= resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    monkeypatch.setattr(connection, "MOST_CONNECTIONS", 12)
    assert running.http.get(f"{running.root}/health").status_code == 200  # one is open
    idle = [reach(running) for _ in range(30)]
    time.sleep(0.2)
    gone = 0
    for client in idle:
        client.settimeout(0.05)
        try:
            gone += client.recv(1) == b""
        except TimeoutError:
            continue
        except ConnectionResetError:
            gone += 1
    assert 15 <= gone < 30
    assert running.http.get(f"{running.root}/health").status_code == 200
    for client in idle:
        client.close()


# Each held everybody up for 5 to 20 s when its faults were gathered, or it was cut into tokens, before its bound was looked at.
MALFORMED = {
    "prompts": ('{"model": "tiny", "prompt": [' + "{}," * 700_000 + "{}]}", "prompt came with 700001 entries; expected at most 64"),
    "ids": ('{"model": "tiny", "prompt": [[' + '"a",' * 500_000 + '"a"]]}', "prompt came as "),
    "a long text": (json.dumps({"model": "tiny", "prompt": "a b " * (MOST_BYTES // 4 - 20)}), "the prompt is 8388528 characters long"),
    "many ids": ('{"model": "tiny", "prompt": [' + "1," * 1_000_000 + "1]}", "the prompt is 1000001 tokens long"),
    "biases": (
        json.dumps({"model": "tiny", "prompt": "a", "logit_bias": dict.fromkeys(map(str, range(300_000)), "x")}),
        "logit_bias came with 300000 entries; expected at most 1024",
    ),
    "fields": (
        json.dumps({"model": "tiny", "prompt": "a"} | dict.fromkeys(map(str, range(300_000)))),
        "the body has 300002 fields; expected at most 1024",
    ),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_large_body_is_held_against_its_bounds_first(name: str, running: Running) -> None:
    body, said = MALFORMED[name]
    assert check(post(running, "completions", body), 400)["message"].startswith(said)


def test_of_a_list_the_first_fault_alone_is_gathered() -> None:
    for prompt in ([[*range(100), "a", "b", "c"]], [1, 2, "a", {}], [{}, {}, {}]):
        with pytest.raises(ValidationError) as told:
            schema.CompletionRequest.model_validate({"model": "m", "prompt": prompt})
        assert told.value.error_count() <= 4  # one for each form that a prompt may have


def test_stopping_while_a_body_arrives_is_a_503(folders: dict[str, Path]) -> None:
    running, server, thread = start({"tiny": load(str(folders["tiny"]))}, {})
    with reach(running) as client:
        client.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 500\r\n\r\n{")
        time.sleep(0.3)
        server.should_exit = True
        whole = b""
        while part := client.recv(65536):
            whole += part
    thread.join(30)
    running.http.close()
    assert not thread.is_alive() and whole.startswith(b"HTTP/1.1 503") and b"x-request-id" in whole and b"engine_stopped" in whole
