"""One engine for all that generates: recurrent networks carry states, encoder-decoders read a source first."""

from __future__ import annotations

import queue
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from danlu.base.errors import DanluError, RequestError
from danlu.inference.engine import Engine, Piece
from danlu.inference.model import load
from danlu.inference.padded import Padded
from danlu.inference.request import Limits
from danlu.inference.sampling import Sampling
from danlu.models.base import Inputs
from danlu.models.loading import families, load_model
from tests.models.shapes import make_foreign, write_foreign

VOCABULARY = 97
draw = random.Random(0)
PROMPTS = [[draw.randrange(2, VOCABULARY) for _ in range(draw.choice([1, 2, 9, 30, 60]))] for _ in range(12)]
CASES = ["rnn/tanh-nano", "rnn/gru-nano", "rnn/lstm-nano", "t5-gated", "bart", "marian"]


@pytest.fixture(params=CASES)
def module(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    family, _, size = request.param.partition("/")
    if not size:
        return load_model(str(write_foreign(request.param, tmp_path / "model"))).module
    torch.manual_seed(0)
    made = families()[family].build(families()[family].sizes(size, VOCABULARY, 64)).eval()
    for name, weight in made.named_parameters():
        if name in ("head.weight", "embedding.weight"):
            torch.nn.init.normal_(weight, std=1.0)  # no two scores near each other
    return made


def ask(engine: Engine, module: Any, prompt: list[int], **sampling: Any) -> queue.SimpleQueue[Piece | DanluError]:
    events: queue.SimpleQueue[Piece | DanluError] = queue.SimpleQueue()
    if hasattr(module, "read_source"):
        engine.submit([module.config.start_id], Sampling(**sampling), events.put, source=prompt)
    else:
        engine.submit(prompt, Sampling(**sampling), events.put)
    return events


def answers(events: queue.SimpleQueue[Piece | DanluError], count: int = 1) -> list[list[int]]:
    said: list[list[int]] = [[] for _ in range(count)]
    ended = 0
    while ended < count:
        event = events.get(timeout=60)
        if isinstance(event, DanluError):
            raise event
        said[event.index] += event.token_ids
        ended += bool(event.finish_reason)
    return said


@torch.inference_mode()
def by_full_passes(module: Any, prompt: list[int], count: int) -> list[int]:
    reads = hasattr(module, "read_source")
    ids = [module.config.start_id] if reads else list(prompt)
    for _ in range(count):
        inputs = Inputs(tokens=torch.tensor([ids]), source=torch.tensor([prompt]) if reads else None)
        ids.append(int(module.logits(module(inputs))[0, -1].argmax()))
    return ids[-count:]


@pytest.fixture
def engine(module: Any) -> Iterator[Engine]:
    made = Engine(Padded(module, Limits()))
    yield made
    made.close()


def test_answers_amid_others_are_those_of_full_passes(engine: Engine, module: Any) -> None:
    """All prompts at once, of many lengths, so that they share steps and come and go."""
    waiting = [ask(engine, module, prompt, max_tokens=8 + index, temperature=0) for index, prompt in enumerate(PROMPTS)]
    for index, (prompt, events) in enumerate(zip(PROMPTS, waiting, strict=True)):
        assert answers(events) == [by_full_passes(module, prompt, 8 + index)]


def test_several_answers_share_one_prompt_and_a_seed_repeats_them(engine: Engine, module: Any) -> None:
    first, again = (answers(ask(engine, module, PROMPTS[4], max_tokens=12, n=5, seed=7, temperature=2.0), 5) for _ in range(2))
    assert first == again
    assert len({tuple(said) for said in first}) > 1


def test_what_does_not_fit_is_refused(module: Any) -> None:
    if not hasattr(module, "read_source"):
        pytest.skip("a recurrent network reads any length")
    engine = Engine(Padded(module, Limits()))
    longest = module.config.context_length
    with pytest.raises(RequestError, match=f"{longest + 1} tokens long"):
        ask(engine, module, [5] * (longest + 1))
    with pytest.raises(RequestError, match="without tokens"):
        ask(engine, module, [])
    with pytest.raises(RequestError, match="a token that the model lacks"):
        ask(engine, module, [VOCABULARY])


@pytest.mark.parametrize("name", ["t5", "bart", "marian"])
def test_an_encoder_decoder_writes_what_transformers_writes(name: str, tmp_path: Path) -> None:
    foreign = make_foreign(name)
    foreign.save_pretrained(tmp_path)
    with load(str(tmp_path)) as model:
        for prompt in PROMPTS[:5]:
            options: dict[str, Any] = {"eos_token_id": None, "forced_eos_token_id": None, "do_sample": False, "num_beams": 1}
            theirs = foreign.generate(torch.tensor([prompt]), max_new_tokens=15, **options)[0, 1:].tolist()
            ours = model.generate(prompt, max_tokens=15, temperature=0)
            assert ours.choices[0].token_ids == theirs
            assert ours.prompt_tokens == len(prompt)
