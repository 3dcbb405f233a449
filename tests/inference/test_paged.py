"""An engine over pages: what was read is not read again, and nothing that happens beside an answer changes a bit of it."""

from __future__ import annotations

import queue
import random
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from danlu.base.errors import RequestError
from danlu.inference.backend import Logits, Part
from danlu.inference.engine import Engine
from danlu.inference.paged import BLOCK, Paged
from danlu.inference.request import Limits
from danlu.kernels import native
from danlu.kernels.packing import PRECISIONS, Precision
from danlu.kernels.steps import PAGE
from danlu.models.gpt import GPT

from .asking import Asked, backend_of
from .tiny import CONTEXT, tiny_module

VOCABULARY = 300
MODULE = tiny_module(VOCABULARY, head_dim=32)
dice = random.Random(0)
PROMPTS = [[dice.randrange(VOCABULARY) for _ in range(dice.choice([1, 2, 9, 30, 100, 200]))] for _ in range(20)]
LONG = [dice.randrange(VOCABULARY) for _ in range(200)]

Make = Callable[..., Engine]


@pytest.fixture(params=["kernels", "twin"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=PRECISIONS)
def precision(request: pytest.FixtureRequest) -> Precision:
    return request.param


@pytest.fixture
def make() -> Iterator[Make]:
    """Engines over pages, closed in the end."""
    engines: list[Engine] = []

    def engine_of(kind: str = "kernels", precision: Precision = "int8", module: GPT = MODULE, limits: Limits | None = None) -> Engine:
        engines.append(Engine(backend_of(kind, module, limits, precision), limits=limits))
        return engines[-1]

    yield engine_of
    for engine in engines:
        engine.close()


def pages_for(backend: Paged, count: int) -> int:
    """Bytes of a cache of so many pages."""
    return count * backend.cache[:, :, 0].numel() * backend.cache.element_size()


def tokens_read(engine: Any) -> list[int]:
    """How many tokens each pass reads from now on."""
    read: list[int] = []
    compute = engine.backend.compute

    def counting(parts: Sequence[Part]) -> list[Logits | None]:
        read.append(sum(part.count for part in parts))
        return compute(parts)

    engine.backend.compute = counting
    return read


def wait_until_idle(engine: Any) -> None:
    until = time.monotonic() + 20
    while (engine.status().running or engine.status().waiting or engine.backend.pages.used) and time.monotonic() < until:
        time.sleep(0.01)
    assert (engine.status().running, engine.status().waiting, engine.backend.pages.used) == (0, 0, 0)


GREEDY: dict[str, Any] = {"temperature": 0, "max_tokens": 12, "logprobs": 2}


def test_a_beginning_that_was_read_is_not_read_again(make: Make, kind: str, precision: Precision) -> None:
    prompts = [LONG[:100], [*LONG[:70], *PROMPTS[3]], LONG[:100], LONG, LONG[:96], LONG[:97]]
    fresh = [Asked(make(kind, precision), ids, **GREEDY).tokens() for ids in prompts]
    engine = make(kind, precision)
    read = tokens_read(engine)
    for ids, expected, known in zip(prompts, fresh, [0, 64, 96, 96, 80, 96], strict=True):
        read.clear()
        asked = Asked(engine, ids, **GREEDY)
        found = asked.tokens()
        assert asked.request.known == known
        assert sum(read) == len(ids) - known + 11  # the last token of an answer is not read
        if kind == "kernels":
            assert found == expected
        elif precision == "float32":
            assert [token.id for token in found[0]] == [token.id for token in expected[0]]
    wait_until_idle(engine)


def test_an_answer_goes_on_from_what_was_said(make: Make) -> None:
    """The next turn of a conversation begins with the whole last one."""
    engine = make()
    first = Asked(engine, LONG[:40], temperature=0, max_tokens=60)
    said = [*LONG[:40], *first.answers()[0]]
    second = Asked(engine, [*said, 5, 6, 7], **GREEDY)
    assert second.tokens() == Asked(make(), [*said, 5, 6, 7], **GREEDY).tokens()
    # Where prompts are computed by tiles, an answer that becomes part of one is read once more.
    assert len(said) == 100 and second.request.known == (BLOCK if engine.backend.steps.tiles else 96)


def test_a_longer_texts_beginning_changes_no_bit_of_a_shorter_one(make: Make, precision: Precision) -> None:
    """Where prompts are computed by tiles, a position may be of a block in one and of the rest in the other."""
    for length in (120, 113, 47, 128):
        engine = make(precision=precision)
        Asked(engine, LONG, **GREEDY).tokens()
        asked = Asked(engine, LONG[:length], **GREEDY)
        assert asked.tokens() == Asked(make(precision=precision), LONG[:length], **GREEDY).tokens()
        whole = (length - 1) // PAGE * PAGE
        assert asked.request.known == (min(whole, length // BLOCK * BLOCK) if engine.backend.steps.tiles else whole)


def test_nothing_is_shared_between_owners(make: Make) -> None:
    engine = make()
    found = []
    for owner, known in (("a", 0), ("b", 0), ("", 0), ("a", 192), ("b", 192), ("", 192)):
        asked = Asked(engine, LONG, owner=owner, **GREEDY)
        found.append(asked.tokens())
        assert asked.request.known == known
    assert all(tokens == found[0] for tokens in found)


def test_several_answers_share_a_prompt_and_their_pages_go_back(make: Make, kind: str, precision: Precision) -> None:
    engine = make(kind, precision)
    lengths = (1, 15, 16, 17, 47, 48)
    how: dict[str, Any] = {"temperature": 1.5, "seed": 3, "max_tokens": 20, "logprobs": 1}
    read = tokens_read(engine)
    for length in lengths:
        read.clear()
        asked = Asked(engine, LONG[:length], n=5, **GREEDY)
        greedy = asked.tokens()
        assert sum(read) == length - asked.request.known + 5 * 11
        assert all(tokens == greedy[0] for tokens in greedy) or kind == "twin"
        drawn = Asked(engine, LONG[:length], n=5, **how).tokens()
        assert len({tuple(token.id for token in tokens) for tokens in drawn}) > 1
        if kind == "kernels":
            assert greedy[0] == Asked(make(kind, precision), LONG[:length], **GREEDY).tokens()[0]
            assert drawn == Asked(make(kind, precision), LONG[:length], n=5, **how).tokens()
    wait_until_idle(engine)


def test_a_small_cache_delays_answers_and_changes_none(make: Make, precision: Precision) -> None:
    wide = make(precision=precision)
    expected = [Asked(wide, ids, n=1 + number % 3, **GREEDY).tokens() for number, ids in enumerate(PROMPTS)]
    assert isinstance(wide.backend, Paged)
    for count in (-(-CONTEXT // PAGE), 30):
        narrow = make(precision=precision, limits=Limits(cache_bytes=pages_for(wide.backend, count), chunk=64))
        assert isinstance(narrow.backend, Paged) and narrow.backend.pages.count == count
        most: list[int] = []
        take = narrow.backend.pages.take

        def taking(take: Callable[[], int] = take, engine: Engine = narrow, most: list[int] = most) -> int:
            page = take()
            most.append(engine.backend.pages.used)
            return page

        narrow.backend.pages.take = taking
        crowd = [Asked(narrow, ids, n=1 + number % 3, **GREEDY) for number, ids in enumerate(PROMPTS)]
        assert [asked.tokens() for asked in crowd] == expected
        assert count - 4 <= max(most) <= count
        wait_until_idle(narrow)


def test_answers_that_outgrow_the_cache_go_back_and_go_on(make: Make, precision: Precision) -> None:
    how: dict[str, Any] = {"temperature": 1.0, "seed": 1, "max_tokens": 100, "logprobs": 1}
    prompts = [[number, *LONG[:9]] for number in range(10)]
    wide = make(precision=precision)
    expected = [Asked(wide, ids, n=2, **how).tokens() for ids in prompts]
    assert isinstance(wide.backend, Paged)
    narrow = make(precision=precision, limits=Limits(cache_bytes=pages_for(wide.backend, -(-CONTEXT // PAGE))))
    left = []
    leave = narrow.backend.leave
    narrow.backend.leave = lambda sequence: (left.append(sequence.ended), leave(sequence))[1]
    crowd = [Asked(narrow, ids, n=2, **how) for ids in prompts]
    assert [asked.tokens() for asked in crowd] == expected
    wait_until_idle(narrow)
    assert left.count(False) > 0 and left.count(True) == 20


def test_a_cache_smaller_than_the_context_bounds_it(make: Make) -> None:
    wide = make()
    assert isinstance(wide.backend, Paged)
    narrow = make(limits=Limits(cache_bytes=pages_for(wide.backend, 3)))
    assert narrow.context_length == 3 * PAGE
    with pytest.raises(RequestError, match="48 tokens"):
        Asked(narrow, LONG[:48])
    asked = Asked(narrow, LONG[:30], temperature=0, max_tokens=None)
    assert asked.answers() == Asked(wide, LONG[:30], temperature=0, max_tokens=18).answers()
    wait_until_idle(narrow)


@pytest.mark.parametrize("head_dim", [32, 64])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_answers_amid_others_are_those_given_alone_to_the_bit(make: Make, precision: Precision, head_dim: int) -> None:
    module = tiny_module(VOCABULARY, head_dim=head_dim)
    draw = random.Random(head_dim)
    prompts = [[draw.randrange(VOCABULARY) for _ in range(draw.choice([1, 3, 17, 33, 80]))] for _ in range(100)]
    calm = make(precision=precision, module=module, limits=Limits(chunk=1000))
    alone = [Asked(calm, ids, **GREEDY).tokens() for ids in prompts]
    busy = make(precision=precision, module=module, limits=Limits(chunk=50))
    neighbours, asked = [], []
    for ids in prompts:
        if draw.random() < 0.5:
            noise = [draw.randrange(VOCABULARY) for _ in range(draw.randrange(1, 120))]
            neighbours.append(Asked(busy, noise, temperature=2, max_tokens=draw.randrange(1, 40), n=draw.randrange(1, 4)))
        asked.append(Asked(busy, ids, **GREEDY))
    for one, expected in zip(asked, alone, strict=True):
        assert one.tokens() == expected
    for one in neighbours:
        one.answers()
    wait_until_idle(busy)


def test_a_prompts_likelihoods_are_whole_after_its_beginning_was_kept(make: Make, precision: Precision) -> None:
    engine = make(precision=precision)
    how: dict[str, Any] = {"temperature": 0, "max_tokens": 3, "logprobs": 2, "prompt_logprobs": True}
    before = Asked(make(precision=precision), LONG, **how)
    answer = before.tokens()
    Asked(engine, LONG, max_tokens=1).answers()
    asked = Asked(engine, LONG, **how)
    assert asked.tokens() == answer and asked.request.prompt_tokens == before.request.prompt_tokens
    assert [token.id for token in asked.request.prompt_tokens] == LONG and asked.request.known == 0
    assert Asked(engine, LONG, n=3, **how).tokens() == [answer[0]] * 3
    wait_until_idle(engine)


BAD = VOCABULARY - 1  # a token whose vector is no number


def damaged_module() -> GPT:
    module = tiny_module(VOCABULARY, head_dim=32, tied=False)
    with torch.no_grad():
        module.embedding.weight[BAD, 3] = torch.nan
    return module


@pytest.mark.parametrize("place", [0, 20, 99])
def test_a_request_whose_numbers_are_not_finite_fails_alone(make: Make, kind: str, precision: Precision, place: int) -> None:
    module = damaged_module()
    limits = Limits(chunk=32)
    engine = make(kind, precision, module, limits)
    clean = [[token % BAD for token in ids] for ids in PROMPTS[:8]]
    expected = [Asked(make(kind, precision, module, limits), ids, **GREEDY).answers() for ids in clean]
    bad = [token % BAD for token in LONG[:100]]
    bad[place] = BAD
    for _ in range(2):
        failing = [Asked(engine, bad, **GREEDY), Asked(engine, bad, n=3, **GREEDY)]
        running = [Asked(engine, ids, **GREEDY) for ids in clean]
        for asked in failing:
            with pytest.raises(RequestError, match="not finite") as caught:
                asked.answers()
            assert caught.value.code == "engine_failure"
        found = [asked.answers() for asked in running]
        assert found == expected or (kind == "twin" and precision != "float32")
        wait_until_idle(engine)
    again = Asked(engine, bad, **GREEDY)
    with pytest.raises(RequestError, match="not finite"):
        again.answers()
    assert again.request.known <= place // PAGE * PAGE  # nothing behind the damage was kept


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_a_cancelled_request_left_reaches_nobody(make: Make, precision: Precision) -> None:
    """It had read what is no number, and left before that was seen."""
    module = damaged_module()
    wide = make(precision=precision, module=module)
    assert isinstance(wide.backend, Paged)
    limits = Limits(cache_bytes=pages_for(wide.backend, -(-CONTEXT // PAGE)), chunk=64)
    engine = make(precision=precision, module=module, limits=limits)
    compute = engine.backend.compute
    left: queue.SimpleQueue[int] = queue.SimpleQueue()

    def cancelling(parts: Sequence[Part]) -> list[Logits | None]:
        found = compute(parts)
        for part in parts:
            if BAD in part.sequence.ids:
                part.sequence.request.cancel()
                left.put(part.count)
        return found

    engine.backend.compute = cancelling
    clean = [[token % BAD for token in ids] for ids in PROMPTS]
    for _ in range(3):
        Asked(engine, [BAD] * (CONTEXT - 20), **GREEDY)
        assert left.get(timeout=20) == 64
        wait_until_idle(engine)
    for ids in clean:
        assert Asked(engine, ids, **GREEDY).tokens() == Asked(wide, ids, **GREEDY).tokens()


def test_without_kernels_the_twin_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(native, "found", lambda: None)
    engine = Engine(backend_of("twin", MODULE, None, "float32"))
    expected = Engine(backend_of("module", MODULE))
    for ids in PROMPTS[:6]:
        assert Asked(engine, ids, temperature=0, max_tokens=10).answers() == Asked(expected, ids, temperature=0, max_tokens=10).answers()
    engine.close()
    expected.close()
