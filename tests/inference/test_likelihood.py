from __future__ import annotations

import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from danlu.base.errors import RequestError
from danlu.inference import likelihood
from danlu.inference.backend import Logits, Part
from danlu.inference.likelihood import Likelihoods, Scored, encode_continuations, encode_pair
from danlu.inference.model import Model, load
from danlu.inference.request import Limits, Request
from danlu.models.loading import families, save_model
from tests.models.shapes import write_foreign

from .encoder import write_encoder
from .tiny import CONTEXT, tiny_tokenizer

VOCABULARY = 97


def alone(model: Model, ids: Sequence[int], continuation: Sequence[int]) -> tuple[float, bool]:
    """The plain way: one full pass over one prompt and one continuation."""
    if hasattr(model.module, "read_source"):
        written = [model.config.start_id, *continuation]
        logits = model.logits([list(ids)], [written[:-1]])[0]
    else:
        logits = model.logits([*ids, *continuation][:-1])[0, len(ids) - 1 :]
    chosen = logits.double().log_softmax(-1)[range(len(continuation)), list(continuation)]
    return float(chosen.sum()), logits.argmax(-1).tolist() == list(continuation)


def draw_prompts(vocabulary: int, longest: int) -> list[tuple[list[int], list[list[int]]]]:
    """Prompts of all lengths, some the same, some the beginning of others; continuations that share their first tokens."""
    dice = random.Random(0)
    prompts = []
    for length in [1, 2, 5, longest // 2, longest - 8, 17, 9]:
        ids = [dice.randrange(2, vocabulary) for _ in range(length)]
        first = [dice.randrange(2, vocabulary) for _ in range(3)]
        prompts.append((ids, [first, first[:1], [*first, 5, 6], [7], first[:2], [dice.randrange(2, vocabulary)] * 4]))
    prompts += [(prompts[4][0][:11], [[3]]), (prompts[3][0], [[4, 4], [5]]), (prompts[3][0] + [6], [])]
    return prompts


def check(model: Model, prompts: list[tuple[list[int], list[list[int]]]], found: list[list[Scored]]) -> None:
    assert [len(one) for one in found] == [len(continuations) for _, continuations in prompts]
    for (ids, continuations), scored in zip(prompts, found, strict=True):
        for continuation, one in zip(continuations, scored, strict=True):
            nats, greedy = alone(model, ids, continuation)
            assert one.nats == pytest.approx(nats, rel=1e-4)
            assert (one.greedy, one.tokens, one.cut) == (greedy, len(continuation), 0)


@pytest.mark.parametrize("limits", [Limits(), Limits(chunk=3, sequences=16), Limits(cache_bytes=2**17)])
def test_side_by_side_they_are_what_separate_passes_say(tiny_folder: Path, limits: Limits) -> None:
    with load(str(tiny_folder), limits=limits) as model:
        prompts = draw_prompts(model.config.vocabulary_size, 60)
        check(model, prompts, Likelihoods(model).score(prompts))


@pytest.mark.parametrize("shape", ["gpt2", "llama-scaled-as-llama3", "qwen2", "qwen3", "t5-gated", "bart", "marian"])
def test_all_shapes_of_decoders(shape: str, tmp_path: Path) -> None:
    with load(write_foreign(shape, tmp_path / "model")) as model:
        prompts = draw_prompts(VOCABULARY, 40)
        check(model, prompts, Likelihoods(model).score(prompts))


def test_recurrent_networks(tmp_path: Path) -> None:
    torch.manual_seed(0)
    family = families()["rnn"]
    module = family.build(family.sizes("gru-nano", VOCABULARY, 64)).eval()
    save_model(module, family, None, tmp_path)
    with load(tmp_path) as model:
        prompts = draw_prompts(VOCABULARY, 40)
        check(model, prompts, Likelihoods(model).score(prompts))


def test_greedy_continuations_are_told(model: Model) -> None:
    ids = model.encode("The river and the")
    answer = model.generate(ids, temperature=0.0, max_tokens=6).choices[0].token_ids
    other = [*answer[:-1], (answer[-1] + 1) % model.config.vocabulary_size]
    found = Likelihoods(model).score([(ids, [answer, answer[:1], other])])[0]
    assert [one.greedy for one in found] == [True, True, False]


def test_what_is_shared_is_read_once(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    backend, read = model.engine.backend, list[int]()
    compute = backend.compute
    monkeypatch.setattr(backend, "compute", lambda parts: (read.append(sum(part.count for part in parts)), compute(parts))[1])
    ids, scorer = list(range(2, 42)), Likelihoods(model)
    scorer.score([(ids, [[5], [6], [7]])])
    assert sum(read) == 40  # last tokens are not read
    read.clear()
    scorer.score([(ids, [[5, 6, 7], [5, 6, 8], [9, 6]])])
    assert sum(read) == 40 - 32 + 5  # whole pages of 16 positions are known
    read.clear()
    long = list(range(2, 82))
    scorer.score([([*long, 50, 51], [[5]]), (long, [[5]]), ([*long, 60], [[5]])])  # prompts that begin alike
    assert sum(read) == 80 - 32 + 2 + 1


def test_a_prompt_beyond_the_context(model: Model) -> None:
    ids = [2 + number % 90 for number in range(CONTEXT + 10)]
    for prompt, continuation, said in ((ids, [5], CONTEXT + 11), (ids[: CONTEXT - 1], [5, 6, 7], CONTEXT + 2)):
        with pytest.raises(RequestError, match=f"{said} tokens long; .* holds {CONTEXT}") as error:
            Likelihoods(model).score([(prompt, [continuation])])
        assert error.value.code == "context_length_exceeded"
    fits = ids[: CONTEXT - 2]
    assert Likelihoods(model).score([(fits, [[5, 6, 7]])])[0][0].nats == pytest.approx(alone(model, fits, [5, 6, 7])[0], rel=1e-4)
    (short, long), *_ = Likelihoods(model, truncate=True).score([(ids, [[5], [5, 6, 7]])])
    assert short.cut == long.cut == 12  # both read the same of the prompt
    assert long.nats == pytest.approx(alone(model, ids[12:], [5, 6, 7])[0], rel=1e-4)
    with pytest.raises(RequestError, match=f"a continuation is {CONTEXT + 1} tokens long"):
        Likelihoods(model, truncate=True).score([([5], [[5] * (CONTEXT + 1)])])


def test_a_cache_smaller_than_the_context_is_the_context(tiny_folder: Path) -> None:
    with load(str(tiny_folder), limits=Limits(cache_bytes=2**17)) as model:
        scorer = Likelihoods(model)
        assert scorer.context_length == model.engine.context_length < CONTEXT
        with pytest.raises(RequestError, match=f"holds {scorer.context_length}"):
            scorer.fit([5] * scorer.context_length, [[5, 6]])
        ids = [2 + number % 90 for number in range(CONTEXT)]
        cut = Likelihoods(model, truncate=True).score([(ids, [[5, 6]])])[0][0]
        assert cut.cut == CONTEXT + 1 - scorer.context_length
        assert cut.nats == pytest.approx(alone(model, ids[cut.cut :], [5, 6])[0], rel=1e-4)


def test_what_cannot_be_scored(model: Model, tmp_path: Path) -> None:
    scorer = Likelihoods(model)
    assert scorer.score([]) == []
    for ids, continuations in (([], [[5]]), ([5], [[]])):
        with pytest.raises(RequestError, match="without tokens"):
            scorer.score([(ids, continuations)])
    with pytest.raises(RequestError, match="a token that the model lacks"):
        scorer.score([([5], [[model.config.vocabulary_size]])])
    with pytest.raises(RequestError, match="is an encoder"):
        Likelihoods(load(write_encoder(tmp_path / "encoder")))


def test_damaged_weights_are_told(model: Model, tiny_folder: Path) -> None:
    with load(str(tiny_folder)) as damaged:
        damaged.module.norm.weight.data.fill_(float("nan"))
        with pytest.raises(RequestError, match="not finite"):
            Likelihoods(damaged).score([([5, 6], [[7]])])


@pytest.mark.parametrize("precision", ["bfloat16", "int8"])
def test_other_precisions_come_near(model: Model, tiny_folder: Path, precision: str) -> None:
    prompts = draw_prompts(model.config.vocabulary_size, 60)
    with load(str(tiny_folder), precision=precision) as served:
        exact, rough = (Likelihoods(one).score(prompts)[0] for one in (model, served))
    assert [one.nats for one in rough] == pytest.approx([one.nats for one in exact], rel=0.1)
    assert [one.nats for one in rough] != [one.nats for one in exact]


@pytest.mark.parametrize("cache_bytes", [2**17, 2**18])
def test_who_makes_room_and_comes_back_says_the_same(tiny_folder: Path, cache_bytes: int) -> None:
    """More continuations than places, all alike, a cache too small for them, and answers being drawn meanwhile."""
    dice = random.Random(1)
    prompts = [([dice.randrange(2, 90) for _ in range(40)], [[dice.randrange(2, 90) for _ in range(37)]] * 40) for _ in "ab"]
    with load(str(tiny_folder), limits=Limits(sequences=16, chunk=7, cache_bytes=cache_bytes)) as model:
        streams = [model.stream([9, 8, number], max_tokens=40, temperature=0.0) for number in range(12)]
        check(model, prompts, Likelihoods(model).score(prompts))
        assert all(sum(len(piece.tokens) for piece in stream) > 0 for stream in streams)


def test_several_threads_and_a_short_queue(tiny_folder: Path) -> None:
    prompts = draw_prompts(90, 40) * 10
    with load(str(tiny_folder), limits=Limits(waiting=5)) as model, ThreadPoolExecutor(6) as pool:
        scorer = Likelihoods(model)
        alike = list(pool.map(lambda _: scorer.score(prompts), range(6)))
        check(model, prompts[:9], alike[0][:9])
        assert all(one == alike[0] for one in alike)


@pytest.mark.parametrize("failure", ["numbers", "interrupt"])
def test_what_fails_midway_leaves_nothing_behind(tiny_folder: Path, failure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with load(str(tiny_folder)) as model:
        backend, compute = model.engine.backend, model.engine.backend.compute

        def damaged(parts: Sequence[Part]) -> list[Logits | None]:
            found = compute(parts)
            return [replace(one, finite=[1, 0, *one.finite[2:]]) if one is not None and len(one.finite) > 2 else one for one in found]

        prompts, scorer, judge, begun = draw_prompts(model.config.vocabulary_size, 60), Likelihoods(model), model.judge, list[Request]()
        monkeypatch.setattr(model, "judge", lambda *asked: (begun.append(judge(*asked)), begun[-1])[1])
        with monkeypatch.context() as patch:
            if failure == "numbers":
                patch.setattr(backend, "compute", damaged)
            else:
                patch.setattr(likelihood._Call, "hear", Mock(side_effect=KeyboardInterrupt))
            with pytest.raises(RequestError if failure == "numbers" else KeyboardInterrupt):
                scorer.score(prompts * 20)
        assert begun and all(request.cancelled or not request.open for request in begun)
        until = time.monotonic() + 20
        while (status := model.status()).running or status.waiting:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert status.alive
        check(model, prompts, scorer.score(prompts))


def test_an_engine_judges_a_bounded_number_of_answers(model: Model) -> None:
    for answers, said in (([], "without tokens"), ([[5], []], "without tokens"), ([[5]] * 17, "17 answers")):
        with pytest.raises(RequestError, match=said):
            model.judge([5, 6], answers, lambda event: None)


def test_texts_are_cut_as_one_and_the_space_goes_with_the_continuation(model: Model) -> None:
    tokenizer = tiny_tokenizer()
    for prompt, continuation in (("The river and", " the mountain"), ("The river and ", "the mountain"), ("The riv", "er and")):
        ids, own = encode_pair(model, prompt, continuation)
        assert ids == tokenizer.encode(prompt.rstrip())
        assert own == tokenizer.encode(prompt + continuation)[len(ids) :]
    assert encode_pair(model, "The river and ", "the") == encode_pair(model, "The river and", " the")
    assert encode_pair(model, "", "The river") == ([tokenizer.bos_id], tokenizer.encode("The river"))
    ids, found = encode_continuations(model, "one two", [" three", " four five"])
    assert (ids, found) == (tokenizer.encode("one two"), [encode_pair(model, "one two", text)[1] for text in (" three", " four five")])
    with pytest.raises(RequestError, match="adds no token"):
        encode_pair(model, "one two", "")
    texts = Likelihoods(model).score_texts([("one two", [" three", " four five"])])
    assert texts == Likelihoods(model).score([(ids, found)])


def test_a_beginning_token_stands_before_the_prompt_alone(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(model.__dict__, "begins_with_bos", True)
    tokenizer = tiny_tokenizer()
    ids, own = encode_pair(model, "one two", " three")
    assert ids == [tokenizer.bos_id, *tokenizer.encode("one two")]
    assert ids[1:] + own == tokenizer.encode("one two three")
    assert encode_pair(model, " ", "one") == ([tokenizer.bos_id], tokenizer.encode(" one"))
