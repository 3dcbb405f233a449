"""`danlu demo`: the main job once through, on real data: raw text in, served model out."""

from __future__ import annotations

import json as encoder
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import httpx
import openai
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from danlu.base.errors import ConfigError
from danlu.base.fetching import path_of
from danlu.base.storage import write_whole
from danlu.recipes.evaluate import evaluate
from danlu.recipes.prepare import prepare
from danlu.recipes.train import train

TEXT, CHAT_MODEL = "wikipedia-leads", "smollm2-135m-instruct"
PROMPT = "The city of"
QUESTION = "Explain in one sentence what a large language model is."
READY_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What happened in one demonstration."""

    documents_in: int
    documents_kept: int
    train_steps: int
    train_tokens_per_second: float
    val_bits_per_byte: float
    test_bits_per_byte: float
    precision: str
    sample: str
    served_completion: str
    chat_reply: str
    stage_seconds: dict[str, float]
    wall_seconds: float


def demo(*, runs: str | Path = Path("runs"), budget: str = "90s", json: bool = False) -> Summary:
    """Fetch, prepare, train gpt/tiny, evaluate, serve it beside a pretrained chat model, and ask both through the openai client.

    Parameters
    ----------
    runs
        Where the demonstration keeps its folder, demo/.
    budget
        How long to train.
    json
        Print the summary as one JSON object at the end.
    """
    began = time.perf_counter()
    console = Console(stderr=True)
    stages: dict[str, float] = {}
    folder = Path(runs) / "demo"
    run_name = f"tiny-{time.strftime('%Y%m%d-%H%M%S')}"

    @contextmanager
    def stage(title: str, command: str) -> Iterator[None]:
        console.print(f"\n[bold]{title}[/bold]  [dim]{command}[/dim]", highlight=False)
        start = time.perf_counter()
        yield
        stages[title] = round(time.perf_counter() - start, 2)

    with stage("fetch", f"danlu fetch {TEXT} {CHAT_MODEL}"):
        for name in (TEXT, CHAT_MODEL):
            path_of(name)
    with stage("prepare", f"danlu prepare {TEXT} --out {folder / 'text'}"):
        prepared = prepare(TEXT, out=folder / "text")
    with stage("train", f"danlu train gpt/tiny --data {folder / 'text'} --budget {budget}"):
        trained = train("gpt/tiny", data=str(folder / "text"), budget=budget, runs=folder, name=run_name)
    with stage("evaluate", f"danlu evaluate {trained.run} --split test"):
        tested = evaluate(trained.run, split="test")
    with stage("serve", f"danlu serve {trained.run} {CHAT_MODEL}"), _server(trained.run, CHAT_MODEL) as address:
        client = openai.OpenAI(base_url=address, api_key="any", max_retries=0, timeout=120)
        listed = [model.id for model in client.models.list()]
        ours = next(name for name in listed if name != CHAT_MODEL)
        completion = client.completions.create(model=ours, prompt=PROMPT, max_tokens=40, temperature=0.7, seed=0)
        reply = client.chat.completions.create(
            model=CHAT_MODEL, messages=[{"role": "user", "content": QUESTION}], max_tokens=60, temperature=0
        )
    summary = Summary(
        documents_in=prepared.counts["documents_in"],
        documents_kept=prepared.counts["documents_kept"],
        train_steps=trained.steps,
        train_tokens_per_second=trained.train_tokens_per_second,
        val_bits_per_byte=trained.val_bits_per_byte or 0.0,
        test_bits_per_byte=tested.bits_per_byte,
        precision=trained.precision,
        sample=trained.sample,
        served_completion=completion.choices[0].text,
        chat_reply=reply.choices[0].message.content or "",
        stage_seconds=stages,
        wall_seconds=round(time.perf_counter() - began, 1),
    )
    write_whole(folder / "summary.json", encoder.dumps(asdict(summary), indent=2, ensure_ascii=False).encode())
    _show(summary, trained.run, folder)
    if json:
        print(encoder.dumps(asdict(summary), ensure_ascii=False), flush=True)
    return summary


@contextmanager
def _server(*models: str) -> Iterator[str]:
    """The real server in a process of its own, on a free port; its address, ending in /v1."""
    process = subprocess.Popen(
        [sys.executable, "-m", "danlu", "serve", *models, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield _wait_until_ready(process)
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_until_ready(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    said = []
    for line in process.stdout:
        said.append(line.strip())
        if found := re.search(r"http://127\.0\.0\.1:\d+/v1", line):
            address = found[0]
            break
    else:
        raise ConfigError(f"the server ended before it was ready: {said[-1] if said else 'it said nothing'}")
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline:
        try:
            if httpx.get(address.removesuffix("/v1") + "/health", timeout=5).status_code == 200:
                return address
        except httpx.TransportError:
            time.sleep(0.1)
    raise ConfigError(f"the server did not become ready in {READY_SECONDS:.0f} s")


def table_of(summary: Summary) -> Table:
    """What happened, a line a stage."""
    table = Table(title="Danlu: raw text in, served model out", title_justify="left", show_header=False, box=box.SIMPLE, show_lines=True)
    table.add_column(max_width=34)
    table.add_column()
    seconds = summary.stage_seconds
    trained = f"gpt/tiny, {summary.train_steps:,} steps, {summary.train_tokens_per_second:,.0f} tokens/s ({summary.precision})"
    rows = [
        ("prepare", f"{summary.documents_kept:,} of {summary.documents_in:,} documents kept, {seconds['prepare']:.1f} s"),
        ("train", f"{trained}, {seconds['train']:.0f} s"),
        ("evaluate", f"{summary.val_bits_per_byte:.3f} bits per byte in validation, {summary.test_bits_per_byte:.3f} in the test split"),
        (f"gpt/tiny, served: {PROMPT}", summary.served_completion.strip()),
        (f"SmolLM2, served: {QUESTION}", summary.chat_reply.strip()),
        ("in all", f"{summary.wall_seconds:.0f} s"),
    ]
    for name, said in rows:
        table.add_row(Text(name), Text(said))
    return table


def _show(summary: Summary, run: str, folder: Path) -> None:
    console = Console(width=None if os.isatty(1) else 120)
    console.print(table_of(summary))
    console.print(f"  written: {folder / 'summary.json'}", markup=False, highlight=False)
    for line in (
        f"danlu generate {run} 'The city of'",
        f"danlu chat {CHAT_MODEL}",
        f"danlu serve {run} {CHAT_MODEL} --alias davinci-codex={CHAT_MODEL}",
        f"danlu train gpt/mini --data {folder / 'text'} --budget 10m",
        f"tensorboard --logdir {folder}",
    ):
        console.print(f"  next: {line}", markup=False, highlight=False)
