from __future__ import annotations

import dataclasses
import inspect
import math
import random
from collections import Counter
from typing import Any

import pytest
import torch
from transformers.generation import logits_process as peers

from danlu.base.errors import RequestError
from danlu.base.options import spread
from danlu.inference.sampling import Sampler, Sampling, draw, parameters
from danlu.kernels import native

BUILDS: dict[str, Any] = dict(native._built())
LOGITS = [torch.randn(1000, generator=torch.Generator().manual_seed(seed)) * 4 for seed in range(5)]


def transformed(logits: torch.Tensor, history: tuple[int, ...] = (), **given: Any) -> torch.Tensor:
    for transform, value in Sampling(**given).transforms():
        logits = transform(logits, value, history)
    return logits


@pytest.mark.parametrize(
    ("given", "peer"),
    [
        ({"temperature": 0.6}, peers.TemperatureLogitsWarper(0.6)),
        ({"top_k": 7}, peers.TopKLogitsWarper(7)),
        ({"top_k": 5000}, peers.TopKLogitsWarper(1000)),
        ({"top_p": 0.55}, peers.TopPLogitsWarper(0.55)),
        ({"top_p": 0.999}, peers.TopPLogitsWarper(0.999)),
        ({"top_p": 1e-9}, peers.TopPLogitsWarper(1e-9)),
        ({"min_p": 0.05}, peers.MinPLogitsWarper(0.05)),
    ],
)
def test_each_transform_gives_the_probabilities_that_transformers_gives(given: dict[str, Any], peer: Any) -> None:
    for logits in LOGITS:
        theirs = peer(torch.zeros(1, 1, dtype=torch.long), logits[None].clone())[0].softmax(-1)
        torch.testing.assert_close(transformed(logits, **given).softmax(-1), theirs, atol=1e-6, rtol=1e-4)


def test_transforms_together_act_in_the_order_of_transformers() -> None:
    chain = [
        peers.TemperatureLogitsWarper(1.7),
        peers.TopKLogitsWarper(50),
        peers.TopPLogitsWarper(0.8),
        peers.MinPLogitsWarper(0.02),
    ]
    for logits in LOGITS:
        theirs = logits[None].clone()
        for peer in chain:
            theirs = peer(torch.zeros(1, 1, dtype=torch.long), theirs)
        ours = transformed(logits, temperature=1.7, top_k=50, top_p=0.8, min_p=0.02)
        torch.testing.assert_close(ours.softmax(-1), theirs[0].softmax(-1), atol=1e-6, rtol=1e-4)


def test_top_p_finds_the_same_tokens_when_thousands_are_needed() -> None:
    flat = torch.rand(20_000, generator=torch.Generator().manual_seed(1)) * 0.01
    theirs = peers.TopPLogitsWarper(0.7)(torch.zeros(1, 1, dtype=torch.long), flat[None].clone())[0]
    assert abs(int(transformed(flat, top_p=0.7).isfinite().sum()) - int(theirs.isfinite().sum())) <= 2  # sums of float32 end a token apart


def test_penalties_follow_the_openai_formula() -> None:
    history = (3, 5, 5, 5)
    found = transformed(LOGITS[0], history, presence_penalty=0.5, frequency_penalty=0.25, logit_bias={"7": 10, 9: -100})
    expected = LOGITS[0].clone()
    for token, count in Counter(history).items():
        expected[token] -= 0.5 + 0.25 * count
    expected[7] += 10
    expected[9] -= 100
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(transformed(LOGITS[0], (), presence_penalty=2, frequency_penalty=2), LOGITS[0])


def test_draws_follow_the_probabilities() -> None:
    logits = torch.tensor([0.1, 0.2, 0.3, 0.4]).log()
    sampler = Sampler(Sampling(), seed=1, index=0)
    counts = Counter(sampler.choose(logits, ()) for _ in range(4000))
    for token, share in enumerate((0.1, 0.2, 0.3, 0.4)):
        assert abs(counts[token] / 4000 - share) < 4 * math.sqrt(share * (1 - share) / 4000)


@pytest.mark.parametrize("build", BUILDS)
def test_the_kernel_draws_what_pytorch_draws(build: str) -> None:
    dice = random.Random(build)
    for case in range(300):
        size, spread = dice.choice((1, 5, 63, 64, 65, 1000, 5000)), dice.choice((0.01, 1, 4, 10))
        logits = torch.randn(size, generator=torch.Generator().manual_seed(case)) * spread
        if size > 10 and case % 3 == 0:
            logits[torch.randint(size, (size // 2,), generator=torch.Generator().manual_seed(case))] = -math.inf
        given = {
            "temperature": (0.05, 0.5, 1.0, 2.0, 50.0),
            "top_k": (0, 1, 5, 40, 3000),
            "top_p": (1.0, 0.999, 0.9, 0.5, 0.0),
            "min_p": (0, 0.05, 0.5, 1),
        }
        limits = {name: dice.choice(values) for name, values in given.items()}
        for key in (0, 1, 2**63 - 1, *(dice.getrandbits(63) for _ in range(5))):
            assert native.draw(logits, key, **limits, library=BUILDS[build]) == draw(logits, key, Sampling(**limits)), limits  # type: ignore[arg-type]


@pytest.mark.parametrize("build", BUILDS)
def test_the_kernel_keeps_equal_logits_together_and_leaves_out_all_below_a_limit(build: str) -> None:
    logits = torch.tensor([3.0, 1.0, 2.0, 3.0, 2.0, -math.inf])
    for limits, kept in (
        ({"top_k": 1}, {0, 3}),
        ({"top_k": 3}, {0, 2, 3, 4}),
        ({"top_p": 0.3}, {0, 3}),
        ({"top_p": 0.8}, {0, 2, 3, 4}),
        ({"min_p": 0.3}, {0, 2, 3, 4}),
        ({"min_p": 0.5}, {0, 3}),
        ({}, {0, 1, 2, 3, 4}),
    ):
        how = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0} | limits
        assert {native.draw(logits, key, **how, library=BUILDS[build]) for key in range(400)} == kept  # type: ignore[arg-type]


def test_a_token_without_probability_is_never_drawn() -> None:
    logits = torch.full((50,), -math.inf)
    logits[20] = 0.0
    for seed in range(50):
        assert Sampler(Sampling(), seed, 0).choose(logits, ()) == 20


def test_same_seed_same_draws_and_answers_differ() -> None:
    def draws(seed: int, index: int) -> list[int]:
        sampler = Sampler(Sampling(temperature=2), seed, index)
        return [sampler.choose(logits, ()) for logits in LOGITS * 4]

    assert draws(1, 0) == draws(1, 0)
    assert len({tuple(draws(seed, index)) for seed in (1, 2) for index in (0, 1)}) == 4


def test_tiny_temperatures_are_greedy_instead_of_overflowing() -> None:
    for cold in (0, 1e-300, 1e-9, 2e-5):
        assert Sampler(Sampling(temperature=cold), 0, 0).choose(LOGITS[0], ()) == int(LOGITS[0].argmax())


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, value) for name in parameters() for value in (object(), float("nan"), [1], "word") if name != "stop" or value != "word"],
        *[(name, value) for name in ("temperature", "top_p", "min_p", "top_k", "n", "max_tokens") for value in (-1, 1e309, True, 2**63)],
        ("n", 0),
        ("n", 17),
        ("top_p", 1.01),
        ("logprobs", 21),
        ("presence_penalty", 2.5),
        ("seed", 2**64),
        ("temperature", 10**400),
        ("stop", ""),
        ("stop", ["a"] * 17),
        ("stop", "x" * 300),
        ("logit_bias", {"x": 1}),
        ("logit_bias", {"1": 1000}),
        ("logit_bias", dict.fromkeys(range(2000), 1)),
    ],
)
def test_a_bad_value_is_refused_by_the_name_of_its_field(name: str, value: Any) -> None:
    with pytest.raises(RequestError) as caught:
        Sampling(**{name: value})
    assert caught.value.param == name
    assert str(caught.value).startswith(name) and "\n" not in str(caught.value) and len(str(caught.value)) < 250


def test_a_function_takes_every_flag_from_the_fields() -> None:
    @spread(Sampling, temperature=0.5)
    def speak(model: str, **sampling: Any) -> dict[str, Any]:
        """Speak.

        Parameters
        ----------
        model
            Which.
        """
        return sampling

    shown = inspect.signature(speak).parameters
    assert set(shown) == {"model"} | {field.name for field in dataclasses.fields(Sampling) if field.metadata["flag"]}
    assert shown["temperature"].default == 0.5 and shown["top_k"].default == 0
    assert "top_p\n    Draw among" in (speak.__doc__ or "")
    assert speak("x", top_k=3) == {"temperature": 0.5, "top_k": 3}
