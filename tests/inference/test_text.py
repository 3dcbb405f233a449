from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from danlu.inference.text import TextStream, Token
from danlu.inputs.tokenizer import Tokenizer

from .tiny import tiny_tokenizer

TOKENIZER = tiny_tokenizer()


def single_bytes(tokenizer: Tokenizer) -> dict[bytes, int]:
    return {tokenizer.token_bytes(token): token for token in range(tokenizer.vocabulary_size) if len(tokenizer.token_bytes(token)) == 1}


BYTES = single_bytes(TOKENIZER)


def stream(ids: list[int], stop: tuple[str, ...] = ()) -> tuple[list[str], list[int], bool]:
    """Pieces of text, released tokens, and whether a stop string ended it."""
    text = TextStream(TOKENIZER, stop)
    pieces: list[str] = []
    tokens: list[Token] = []
    for token in ids:
        piece, released, stopped = text.push(Token(id=token))
        pieces.append(piece)
        tokens += released
        if stopped:
            return pieces, [token.id for token in tokens], True
    piece, released = text.finish()
    return [*pieces, piece], [token.id for token in [*tokens, *released]], False


@settings(max_examples=150, deadline=None)
@given(some.text(max_size=40))
def test_any_text_comes_out_whole_even_byte_by_byte(text: str) -> None:
    for ids in (TOKENIZER.encode(text), [BYTES[bytes([byte])] for byte in text.encode()]):
        pieces, released, _ = stream(ids)
        assert "".join(pieces) == text and released == ids
        assert "\ufffd" not in "".join(pieces) or "\ufffd" in text


def test_a_character_is_held_back_until_its_last_byte() -> None:
    pieces, _, _ = stream([BYTES[bytes([byte])] for byte in "丹🐉".encode()])
    assert pieces == ["", "", "丹", "", "", "", "🐉", ""]


def test_half_a_character_at_the_end_is_dropped_and_bytes_that_are_no_text_are_marked() -> None:
    assert "".join(stream([BYTES[bytes([byte])] for byte in "a丹".encode()[:3]])[0]) == "a"
    assert "".join(stream([BYTES[b"\xff"], BYTES[b"a"]])[0]) == "\ufffda"


@settings(max_examples=200, deadline=None)
@given(some.text(alphabet="ab丹", max_size=20), some.lists(some.text(alphabet="ab丹", min_size=1, max_size=4), min_size=1, max_size=3))
def test_a_stop_string_ends_the_text_before_it_wherever_tokens_end(text: str, stops: list[str]) -> None:
    pieces, _, stopped = stream([BYTES[bytes([byte])] for byte in text.encode()], tuple(stops))
    said = "".join(pieces)
    ends = [min(text.find(stop) + len(stop) for stop in stops if stop in text)] if any(stop in text for stop in stops) else []
    assert stopped == bool(ends)
    assert not any(stop in said for stop in stops)
    assert text.startswith(said)
    if not ends:
        assert said == text


def test_tokens_are_released_with_the_text_they_begin() -> None:
    ids = TOKENIZER.encode("one two three")
    _, released, stopped = stream(ids, (" two",))
    assert stopped and TOKENIZER.decode(released) == "one"


@pytest.mark.parametrize("stop", ["###", "\n\n", "终了"])
def test_what_may_begin_a_stop_string_waits(stop: str) -> None:
    text = TextStream(TOKENIZER, (stop,))
    said = "".join(text.push(Token(id=token))[0] for token in TOKENIZER.encode("x" + stop[:-1]))
    assert said == "x"
    assert text.finish()[0] == stop[:-1]
