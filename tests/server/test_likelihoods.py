"""What lm-eval's `local-completions` asks for: likelihoods of given tokens, from echoed log-probabilities."""

from __future__ import annotations

from pathlib import Path

import pytest

from danlu.inference.likelihood import Likelihoods, encode_continuations
from danlu.inference.model import load

from .conftest import start
from .test_errors import post

PROMPTS = [("The river", [" and the", " mountain are old", "s"]), ("大模型是一种", ["强大的技术", "😀"]), ("one two three", [" four"])]


@pytest.mark.parametrize("ending", [False, True])
@pytest.mark.parametrize("as_text", [False, True])
def test_lm_evals_requests_give_the_local_likelihoods(folders: dict[str, Path], ending: bool, as_text: bool) -> None:
    with load(str(folders["tiny"])) as model:
        asked = [encode_continuations(model, *prompt) for prompt in PROMPTS]
        pairs = [(ids, own) for ids, continuations in asked for own in continuations]
        if ending:  # the one token that lm-eval has drawn behind each text ends the answer
            after = [model.generate([*ids, *own], temperature=0, max_tokens=1).choices[0].token_ids[0] for ids, own in pairs]
            model.engine.end_ids = frozenset(after)
        running, server, thread = start({"tiny": model}, {})
        try:
            texts = [prompt + continuation for prompt, continuations in PROMPTS for continuation in continuations]
            prompt = texts if as_text else [[*ids, *own] for ids, own in pairs]
            body = {"prompt": prompt, "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, "echo": True}
            choices = sorted(post(running, "completions", {"model": "tiny"} | body).json()["choices"], key=lambda choice: choice["index"])
            scored = [one for some in Likelihoods(model).score(asked) for one in some]
        finally:
            running.http.close()
            server.should_exit = True
            thread.join(20)
        for choice, (ids, own), one in zip(choices, pairs, scored, strict=True):
            found = choice["logprobs"]
            values, best = found["token_logprobs"][len(ids) : -1], found["top_logprobs"][len(ids) : -1]  # the last is what was drawn
            assert len(values) == len(own)
            assert sum(values) == pytest.approx(one.nats, rel=1e-4)
            assert all(value == max(others.values()) for value, others in zip(values, best, strict=True)) == one.greedy
            assert choice["finish_reason"] == ("stop" if ending else "length")
