from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import openai
import pytest

from danlu.inference.model import Model, load
from danlu.inference.request import Limits
from danlu.server.app import Service
from danlu.server.run import Server, address, bind
from tests.inference.encoder import write_encoder
from tests.inference.tiny import tiny_tokenizer, write_tiny

OLD_CLIENT = "openai==0.28.1"


@dataclass(frozen=True)
class Running:
    """A server on a real port."""

    service: Service
    url: str  # ends in /v1
    http: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=60))

    @property
    def root(self) -> str:
        return self.url.removesuffix("/v1")

    def client(self, **settings: object) -> openai.OpenAI:
        return openai.OpenAI(api_key="any", base_url=self.url, max_retries=0, timeout=60, **settings)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    place = tmp_path_factory.mktemp("served")
    return {
        "tiny": write_tiny(place / "tiny"),
        "other": write_tiny(place / "other", seed=1, tokenizer=tiny_tokenizer(template=None)),
        "ids": write_tiny(place / "ids", seed=2, with_tokenizer=False),
        "encoder": write_encoder(place / "encoder", {"pooling_mode": "mean"}),
    }


def start(models: dict[str, Model], aliases: dict[str, str]) -> tuple[Running, Server, threading.Thread]:
    ready = threading.Event()
    listener = bind("127.0.0.1", 0)
    server = Server(Service(models, aliases), on_ready=ready.set, grace_seconds=1)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    url = address(listener)
    thread.start()
    assert ready.wait(30)
    return Running(server.service, url), server, thread


@pytest.fixture(scope="module")
def running(folders: dict[str, Path]) -> Iterator[Running]:
    models = {name: load(str(folder), limits=Limits(sequences=16, waiting=64)) for name, folder in folders.items()}
    found, server, thread = start(models, {"davinci-codex": "tiny"})
    yield found
    found.http.close()
    server.should_exit = True
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture(scope="session")
def old_openai() -> Path:
    """The folder of openai 0.28, which cannot stand beside the current one; fetched once from the package index."""
    folder = Path(__file__).resolve().parents[2] / "build" / "openai-0.28"
    if not (folder / ".whole").exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", str(folder), "--upgrade"]
        subprocess.run([*command, OLD_CLIENT], check=True, timeout=240)
        (folder / ".whole").touch()
    return folder
