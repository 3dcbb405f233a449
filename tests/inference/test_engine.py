"""What an engine promises, whatever computes for it: the module itself, the kernels, or the kernels' twin."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

from danlu.base.errors import RequestError
from danlu.inference.backend import Logits, Part
from danlu.inference.engine import Engine
from danlu.inference.padded import Padded
from danlu.inference.paged import Paged
from danlu.inference.request import Limits
from danlu.kernels.steps import PAGE, Found, Steps, StepWork
from danlu.models.base import Inputs
from danlu.models.gpt import GPT

from .asking import BACKENDS, Asked, backend_of
from .tiny import CONTEXT, tiny_module

VOCABULARY = 300
MODULE = tiny_module(VOCABULARY)
BYTES_PER_TOKEN = 2 * 4 * MODULE.config.num_layers * MODULE.config.num_kv_heads * MODULE.config.head_dim
draw = random.Random(0)
PROMPTS = [[draw.randrange(VOCABULARY) for _ in range(draw.choice([1, 2, 9, 30, 150, 260]))] for _ in range(32)]


@pytest.fixture(params=BACKENDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def engine_of(kind: str, module: GPT = MODULE, limits: Limits | None = None, **named: Any) -> Engine:
    return Engine(backend_of(kind, module, limits), limits=limits, **named)


@pytest.fixture
def engine(kind: str) -> Iterator[Engine]:
    made = engine_of(kind)
    yield made
    made.close()


@torch.inference_mode()
def greedy_by_full_passes(ids: list[int], count: int) -> list[int]:
    ids = list(ids)
    for _ in range(count):
        ids.append(int(MODULE.logits(MODULE(Inputs(tokens=torch.tensor([ids]))))[0, -1].argmax()))
    return ids[-count:]


def test_cached_decoding_equals_the_full_pass(engine: Engine) -> None:
    for ids in PROMPTS[:12]:
        asked = Asked(engine, ids, temperature=0, max_tokens=12)
        assert asked.answers() == [greedy_by_full_passes(ids, 12)]
        assert asked.reasons == {0: "length"} and asked.request.sampled == 12


def test_logprobs_equal_the_full_pass_for_prompt_and_answer(engine: Engine) -> None:
    ids = PROMPTS[3] + PROMPTS[4]
    pieces = []
    asked = Asked(engine, ids[:200], temperature=0, max_tokens=6, logprobs=3, prompt_logprobs=True)
    while not pieces or not pieces[-1].finish_reason:
        pieces.append(asked.events.get(timeout=60))
    tokens = [*asked.request.prompt_tokens, *(token for piece in pieces for token in piece.tokens)]
    with torch.inference_mode():
        whole = MODULE.logits(MODULE(Inputs(tokens=torch.tensor([[token.id for token in tokens]]))))[0].log_softmax(-1)
    assert [token.id for token in tokens[:-6]] == ids[:200] and tokens[0].logprob is None
    for place, token in enumerate(tokens[1:]):
        assert token.logprob == pytest.approx(float(whole[place, token.id]), abs=1e-3)
        assert [other for other, _ in token.alternatives] == whole[place].topk(3).indices.tolist()


def test_greedy_answers_amid_others_are_those_given_alone(engine: Engine) -> None:
    alone = [Asked(engine, ids, temperature=0, max_tokens=20).answers()[0] for ids in PROMPTS]
    crowd = [Asked(engine, ids, temperature=0, max_tokens=20, n=1 + number % 3) for number, ids in enumerate(PROMPTS)]
    noise = [Asked(engine, ids, temperature=3, max_tokens=50) for ids in PROMPTS[:10]]
    for asked, expected in zip(crowd, alone, strict=True):
        assert all(answer == expected for answer in asked.answers())
    for asked in noise:
        asked.answers()


def test_seeded_answers_amid_others_are_those_given_alone(engine: Engine) -> None:
    how = {"temperature": 1.0, "top_p": 0.9, "max_tokens": 15, "n": 4}
    alone = [Asked(engine, ids, seed=5, **how).answers() for ids in PROMPTS[:10]]
    crowd = [Asked(engine, ids, seed=5, **how) for ids in PROMPTS[:10]]
    assert [asked.answers() for asked in crowd] == alone
    assert any(len({tuple(answer) for answer in answers}) == 4 for answers in alone)


def test_without_a_seed_answers_differ(engine: Engine) -> None:
    assert len({tuple(Asked(engine, [5], temperature=2, max_tokens=10).answers()[0]) for _ in range(3)}) == 3


def tokens_held(backend: Padded | Paged) -> int:
    """Positions that have a place in the cache."""
    if isinstance(backend, Paged):
        return backend.pages.used * PAGE
    return backend.cache.rows * backend.cache.columns


def watch(engine: Engine) -> list[int]:
    """How many positions the cache holds after every pass from now on."""
    seen: list[int] = []
    compute = engine.backend.compute

    def watched(parts: Sequence[Part]) -> list[Logits | None]:
        found = compute(parts)
        seen.append(tokens_held(engine.backend))
        return found

    engine.backend.compute = watched
    return seen


def test_little_memory_delays_answers_but_does_not_change_them(kind: str) -> None:
    roomy = engine_of(kind)
    unbounded = watch(roomy)
    alone = [Asked(roomy, ids, temperature=0, max_tokens=40).answers()[0] for ids in PROMPTS]
    for asked in [Asked(roomy, ids, temperature=0, max_tokens=40) for ids in PROMPTS]:
        asked.answers()
    roomy.close()
    most = CONTEXT * 2 + 100
    narrow = engine_of(kind, limits=Limits(cache_bytes=BYTES_PER_TOKEN * most))
    held = watch(narrow)
    crowd = [Asked(narrow, ids, temperature=0, max_tokens=40, n=1 + number % 2) for number, ids in enumerate(PROMPTS)]
    for asked, expected in zip(crowd, alone, strict=True):
        assert all(answer == expected for answer in asked.answers())
    assert 0 < max(held) <= most < max(unbounded)
    narrow.close()


def test_a_short_prompt_does_not_wait_behind_long_ones(kind: str) -> None:
    engine = engine_of(kind, limits=Limits(chunk=1))
    long = [Asked(engine, PROMPTS[0][:1] * 310, temperature=0, max_tokens=1) for _ in range(8)]
    short = Asked(engine, [7, 8], temperature=0, max_tokens=2)
    for asked in (short, *long):
        asked.answers()
    assert all(short.told < asked.told for asked in long[1:]), "the long prompts were read before the short one was answered"
    engine.close()


@pytest.mark.parametrize("answers", [1, 8])
def test_a_request_with_many_answers_keeps_nobody_out(kind: str, answers: int) -> None:
    """Its youngest answers give way, and say the same when they go on."""
    how = {"temperature": 1.0, "seed": 3, "max_tokens": 100, "n": 16}
    calm = engine_of(kind)
    alone = Asked(calm, PROMPTS[2][:9], **how).answers()
    calm.close()
    engine = engine_of(kind, limits=Limits(sequences=16))
    large = Asked(engine, PROMPTS[2][:9], **how)
    while large.request.sampled < 40:
        time.sleep(0.001)
    small = Asked(engine, PROMPTS[5][:9], n=answers, temperature=0, max_tokens=3)
    assert len(small.answers()) == answers and large.request.open == 16, "the newcomer waited for an answer to end"
    assert large.answers() == alone
    engine.close()


def test_cancelling_frees_the_place_at_once_in_every_state(kind: str) -> None:
    engine = engine_of(kind, limits=Limits(sequences=16, chunk=8))
    others = [Asked(engine, ids, temperature=0, max_tokens=30) for ids in PROMPTS[:4]]
    leaving = [Asked(engine, [3] * length, temperature=1, max_tokens=300, n=4) for length in (1, 1, 250, 250, 250, 1)]
    time.sleep(0.05)
    for asked in leaving:
        asked.request.cancel()
    answers = [asked.answers()[0] for asked in others]
    until = time.monotonic() + 2
    while (engine.status().running or engine.status().waiting) and time.monotonic() < until:
        time.sleep(0.01)
    assert (engine.status().running, engine.status().waiting) == (0, 0)
    assert answers == [greedy_by_full_passes(ids, 30) for ids in PROMPTS[:4]]
    engine.close()


class Fragile(GPT):
    """Breaks on token 13 and goes out of numbers on token 17."""

    def forward(self, inputs: Inputs, cache: Any = None) -> torch.Tensor:
        if (inputs.tokens == 13).any():
            raise RuntimeError("broken on purpose")
        hidden = super().forward(inputs, cache)
        return torch.where((inputs.tokens == 17)[..., None], torch.nan, hidden)


class FragileSteps(Steps):
    """The same of steps."""

    def __init__(self, steps: Steps) -> None:
        self.steps = steps

    def step(self, work: StepWork) -> Found:
        if 13 in work.tokens:
            raise RuntimeError("broken on purpose")
        found = self.steps.step(work)
        bad = torch.tensor([work.tokens[row] == 17 for row in work.wanted])
        finite = [0 if broken else whole for broken, whole in zip(bad.tolist(), found.finite, strict=True)]
        return replace(found, logits=torch.where(bad[:, None], torch.nan, found.logits), finite=finite)

    def close(self) -> None:
        self.steps.close()


def fragile_engine(kind: str) -> Engine:
    if kind == "module":
        fragile = Fragile(MODULE.config)
        fragile.load_state_dict(MODULE.state_dict())
        return engine_of(kind, fragile.eval())
    engine = engine_of(kind)
    assert isinstance(engine.backend, Paged)
    engine.backend.steps = FragileSteps(engine.backend.steps)
    return engine


def test_a_fault_in_one_request_leaves_the_others_alone(kind: str) -> None:
    engine = fragile_engine(kind)
    good = [ids for ids in PROMPTS if not {13, 17} & {*ids, *greedy_by_full_passes(ids, 10)}][:6]
    for repeated in (40, 40, 1):  # beside them, and in one batch with them
        bad = [Asked(engine, [1, 2, bad, 4][: 3 if bad == 17 else 4] * repeated, temperature=0) for bad in (13, 17)]
        running = [Asked(engine, ids, temperature=0, max_tokens=10) for ids in good]
        for asked in bad:
            with pytest.raises(RequestError) as caught:
                asked.answers()
            assert caught.value.code == "engine_failure" and "purpose" not in str(caught.value)
        for asked, ids in zip(running, good, strict=True):
            assert asked.answers() == [greedy_by_full_passes(ids, 10)]
    assert engine.status().alive and engine.status().running == 0
    engine.close()


def test_a_fault_between_two_steps_is_told_and_the_engine_starts_over(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("broken on purpose")

    for part in ("join", "fits", "group"):
        monkeypatch.setattr(engine.backend, part, broken)
        for asked in [Asked(engine, ids, temperature=0, max_tokens=10, n=2) for ids in PROMPTS[:3]]:
            with pytest.raises(RequestError) as caught:
                asked.answers()
            assert caught.value.code == "engine_failure" and "purpose" not in str(caught.value)
        monkeypatch.undo()
        assert Asked(engine, PROMPTS[0], temperature=0, max_tokens=10).answers() == [greedy_by_full_passes(PROMPTS[0], 10)]


def test_end_tokens_stop_and_are_no_part_of_the_answer(kind: str) -> None:
    told = greedy_by_full_passes(PROMPTS[2], 10)
    place = next(place for place in range(2, 10) if told[place] not in told[:place])
    ending = engine_of(kind, end_ids=[told[place]])
    asked = Asked(ending, PROMPTS[2], temperature=0, max_tokens=50)
    assert asked.answers() == [told[:place]] and asked.reasons == {0: "stop"}
    ending.close()


@pytest.mark.parametrize(
    ("ids", "sampling", "param"),
    [
        ([], {}, "prompt"),
        ([VOCABULARY], {}, "prompt"),
        ([-1], {}, "prompt"),
        ([2**70], {}, "prompt"),
        ([1], {"logit_bias": {VOCABULARY: 1}}, "logit_bias"),
        ([1], {"stop": "x"}, "stop"),
    ],
)
def test_what_cannot_be_answered_is_refused_before_any_work(engine: Engine, ids: list[int], sampling: dict[str, Any], param: str) -> None:
    with pytest.raises(RequestError) as caught:
        Asked(engine, ids, **sampling)
    assert caught.value.param == param and engine.thread is None


def test_a_prompt_that_does_not_fit_is_refused_with_both_lengths(engine: Engine) -> None:
    for length in (CONTEXT, CONTEXT + 5):
        with pytest.raises(RequestError, match=f"{length} tokens.*{CONTEXT} tokens") as caught:
            Asked(engine, [1] * length)
        assert caught.value.code == "context_length_exceeded"
    asked = Asked(engine, [1] * (CONTEXT - 3), max_tokens=None)
    assert len(asked.answers()[0]) == 3 and asked.reasons == {0: "length"}


def test_a_full_queue_refuses_and_recovers(kind: str) -> None:
    engine = engine_of(kind, limits=Limits(sequences=16, waiting=4))
    running, refused = [], 0
    for _ in range(60):
        try:
            running.append(Asked(engine, [1, 2, 3], temperature=0, max_tokens=30, n=16))
        except RequestError as error:
            assert error.code == "queue_full"
            refused += 1
    assert refused and running
    for asked in running:
        asked.answers()
    Asked(engine, [1], max_tokens=1).answers()
    engine.close()


def test_closing_tells_everyone_and_refuses_newcomers(engine: Engine) -> None:
    running = [Asked(engine, [1], temperature=1, max_tokens=300) for _ in range(40)]
    engine.close()
    ended = 0
    for asked in running:
        try:
            asked.answers()
        except RequestError as error:
            assert error.code == "engine_stopped"
            ended += 1
    assert ended and not engine.status().alive
    with pytest.raises(RequestError, match="shutting down"):
        Asked(engine, [1])


def test_idle_engines_hold_no_cache(engine: Engine) -> None:
    held = watch(engine)
    Asked(engine, PROMPTS[0], max_tokens=5, n=3).answers()
    until = time.monotonic() + 2
    while tokens_held(engine.backend) and time.monotonic() < until:
        time.sleep(0.01)
    assert tokens_held(engine.backend) == 0 < max(held)
