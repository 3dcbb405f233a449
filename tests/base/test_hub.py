"""The real hub client against a small server on this machine that speaks the hub's protocol."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": bytes(range(256)) * 100,
    "tokenizer.json": b"{}",
    "pytorch_model.bin": b"a pickle, never to be fetched",
    "modeling_own.py": b"raise SystemExit('code from a hub was run')",
}


class Hub(BaseHTTPRequestHandler):
    """One repository, tiny/llama, at one commit."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        path = self.path.partition("?")[0]
        self.server.asked.append(path)  # type: ignore[attr-defined]
        if match := re.fullmatch(r"/tiny/llama/resolve/(main|[0-9a-f]{40})/(.+)", path):
            if match[2] in FILES:
                content = FILES[match[2]]
                return self.send(200, content, {"ETag": f'"{hashlib.sha256(content).hexdigest()}"', "X-Repo-Commit": COMMIT})
        elif re.fullmatch(r"/api/models/tiny/llama(/revision/(main|" + COMMIT + "))?", path):
            siblings = [{"rfilename": name} for name in FILES]
            return self.send(200, json.dumps({"id": "tiny/llama", "modelId": "tiny/llama", "sha": COMMIT, "siblings": siblings}).encode())
        elif re.fullmatch(r"/api/models/tiny/llama/tree/(main|" + COMMIT + ")", path):
            rows = [{"type": "file", "path": name, "size": len(content), "oid": "0" * 40} for name, content in FILES.items()]
            return self.send(200, json.dumps(rows).encode())
        elif path.startswith("/api/models/tiny/llama/"):
            return self.send(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        return self.send(404, b"{}", {"X-Error-Code": "RepoNotFound"})

    def send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(content)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing."""


@pytest.fixture
def hub() -> Iterator[ThreadingHTTPServer]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.daemon_threads = True
    server.asked = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def path_of(name: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own, since the hub's client reads its settings when it is imported."""
    code = (
        "import sys\nfrom danlu.base.errors import DanluError\nfrom danlu.base.fetching import path_of\n"
        f"try: print(path_of({name!r}))\nexcept DanluError as error: sys.exit('danlu: ' + str(error))"
    )
    keep = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGINGFACE"))}
    settings = {**keep, "HF_HOME": str(folder), "DANLU_HOME": str(folder), "HF_HUB_DISABLE_TELEMETRY": "1", **environment}
    return subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True, timeout=120)


def test_a_repository_is_fetched_without_pickles_and_code_and_then_needs_no_network(hub: ThreadingHTTPServer, tmp_path: Path) -> None:
    address = f"http://127.0.0.1:{hub.server_port}"
    done = path_of("hf:tiny/llama", tmp_path, HF_ENDPOINT=address)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.strip())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        name: content for name, content in FILES.items() if not name.endswith((".bin", ".py"))
    }
    assert not any("pytorch_model.bin" in path or ".py" in path for path in hub.asked)  # type: ignore[attr-defined]
    for environment in ({"HF_ENDPOINT": "http://127.0.0.1:9"}, {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "1"}):
        again = path_of("hf:tiny/llama", tmp_path, **environment)
        assert again.stdout.strip() == str(folder), again.stderr
    pinned = path_of(f"hf:tiny/llama@{COMMIT}", tmp_path, HF_ENDPOINT=address)
    assert pinned.stdout.strip() == str(folder), pinned.stderr


@pytest.mark.parametrize(
    ("name", "environment", "told"),
    [
        ("hf:tiny/lama", {}, "knows no repository"),
        ("hf:tiny/llama@v9", {}, "has no revision 'v9'"),
        ("hf:tiny/llama", {"HF_HUB_OFFLINE": "1"}, "not in the cache"),
        ("hf:tiny/llama", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "HF_ENDPOINT to a mirror"),
        ("hf:", {}, "expected hf:owner/name"),
        ("hf:../../etc", {}, "expected hf:owner/name"),
        ("hf:a/b/c", {}, "expected hf:owner/name"),
    ],
)
def test_what_cannot_be_fetched_is_one_line(
    name: str, environment: dict[str, str], told: str, hub: ThreadingHTTPServer, tmp_path: Path
) -> None:
    done = path_of(name, tmp_path, **{"HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}", **environment})
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("danlu: ") and told in done.stderr and done.stderr.count("\n") == 1, done.stderr
