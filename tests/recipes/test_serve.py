from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from danlu.base.errors import ConfigError
from danlu.recipes.serve import public_names, serve
from tests.inference.tiny import write_tiny

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run as training leaves it."""
    run = tmp_path_factory.mktemp("runs") / "demo"
    run.mkdir()
    write_tiny(run / "final")
    return run


@pytest.fixture
def served(run_folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    program = f"from danlu.recipes.serve import serve; serve({str(run_folder)!r}, alias=['davinci-codex={run_folder}'], port=0, threads=1)"
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    ready = process.stdout.readline()
    assert ready.startswith("danlu: serving on http://127.0.0.1:") and "any key" in ready
    yield process, ready.split()[3]
    process.kill()
    process.communicate()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_serves_and_stops_cleanly_amid_streams(served: tuple[subprocess.Popen[str], str], number: signal.Signals) -> None:
    process, url = served
    client = openai.OpenAI(api_key="any", base_url=url, max_retries=0)
    assert [entry.id for entry in client.models.list()] == ["demo", "davinci-codex"]
    canary = "canary 丹炉"
    assert client.completions.create(model="davinci-codex", prompt=canary, max_tokens=3).usage.completion_tokens <= 3
    outcomes: list[str] = []
    begun = threading.Semaphore(0)

    def ask() -> None:
        body = {"model": "demo", "prompt": "x", "max_tokens": 300, "n": 8, "temperature": 2, "stream": True}
        with httpx.stream("POST", f"{url}/completions", json=body, timeout=30) as reply:
            begun.release()
            outcomes.append(next(line for line in reply.iter_lines() if line and not line.startswith('data: {"id"')))

    asking = [threading.Thread(target=ask) for _ in range(4)]
    for thread in asking:
        thread.start()
    for _ in asking:
        assert begun.acquire(timeout=20)
    began = time.monotonic()
    process.send_signal(number)
    output, errors = process.communicate(timeout=20)
    for thread in asking:
        thread.join(10)
    assert process.returncode == 0 and time.monotonic() - began < 15
    assert len(outcomes) == 4 and set(outcomes) <= {"data: [DONE]", "event: error"}
    assert "Traceback" not in errors and "canary" not in output + errors and errors.rstrip().endswith("danlu: stopped")


def test_a_public_address_needs_keys_which_come_later(run_folder: Path) -> None:
    for host in ("0.0.0.0", "192.168.0.1", "example.org", "::"):
        with pytest.raises(ConfigError, match="keys"):
            serve(str(run_folder), host=host, port=0)


def test_a_taken_port_is_one_line(run_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(ConfigError, match="port") as caught:
        serve(str(run_folder), port=taken.getsockname()[1])
    assert "\n" not in str(caught.value) and "--port" in str(caught.value)


def test_mistakes_get_one_line(run_folder: Path) -> None:
    with pytest.raises(ConfigError, match="no model came"):
        serve(port=0)
    with pytest.raises(ConfigError, match="NAME=MODEL"):
        serve(str(run_folder), alias=["davinci"], port=0)
    with pytest.raises(ConfigError, match="own name"):
        serve(str(run_folder), alias=[f"demo={run_folder}"], port=0)
    with pytest.raises(ConfigError, match="no model is called"):
        serve("no-such-model", port=0)
    with pytest.raises(ConfigError, match="port"):
        serve(str(run_folder), port=70_000)


def test_models_answer_to_short_names(run_folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "Some.Model.gguf"
    file.touch()
    given = [str(run_folder), str(file), "smollm2-135m-instruct", "hf:owner/name"]
    assert list(public_names(given).values()) == ["demo", "Some.Model", "smollm2-135m-instruct", "hf:owner/name"]
    with pytest.raises(ConfigError, match="two models"):
        public_names([str(run_folder), str(run_folder / "final")])
