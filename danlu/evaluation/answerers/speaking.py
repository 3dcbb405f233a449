"""Who can be prompted: a model of this machine, or one behind an API; both tell likelihoods and write."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from danlu.base.errors import ConfigError, RequestError
from danlu.inference.likelihood import Likelihoods, Scored, encode_continuations
from danlu.inference.model import Gathered, Model, Stream
from danlu.inference.remote import RemoteModel, Said

TOGETHER = 64  # texts that are written at once: the engine keeps more than that waiting

Pair = tuple[str, Sequence[str]]  # a prompt and continuations
Messages = Sequence[Mapping[str, str]]
Item = TypeVar("Item")


class Speaker(Protocol):
    """What a prompt can be put to. An error that one prompt brings about stands in its place."""

    name: str

    def score(self, prompts: Sequence[Pair]) -> list[list[Scored] | RequestError]:
        """Likelihoods of continuations, their spaces included, behind their prompts."""

    def generate(self, prompts: Sequence[str], max_tokens: int, stop: Sequence[str]) -> list[Said | RequestError]:
        """The likeliest text behind every prompt, up to any of `stop`."""

    def chat(self, conversations: Sequence[Messages], max_tokens: int) -> list[Said | RequestError]:
        """The likeliest answer to every conversation."""


class LocalSpeaker:
    """A loaded model."""

    def __init__(self, model: Model, truncate: bool = False) -> None:
        """`truncate` cuts prompts that are too long from the left. Raises: RequestError if the model is an encoder."""
        self.model, self.name = model, model.name
        self.likelihoods = Likelihoods(model, truncate)

    def score(self, prompts: Sequence[Pair]) -> list[list[Scored] | RequestError]:
        """As Speaker has it."""
        read = [self._read(prompt) for prompt in prompts]
        found = iter(self.likelihoods.score([one for one in read if not isinstance(one, RequestError)]))
        return [one if isinstance(one, RequestError) else next(found) for one in read]

    def generate(self, prompts: Sequence[str], max_tokens: int, stop: Sequence[str]) -> list[Said | RequestError]:
        """As Speaker has it."""

        def begin(prompt: str) -> tuple[Stream, int]:
            ids = self.model.encode(prompt)
            room = max(self.model.engine.context_length - max_tokens, 1) if self.likelihoods.truncate else len(ids)
            cut = max(len(ids) - room, 0)
            return self.model.stream(ids[cut:], max_tokens=max_tokens, stop=tuple(stop), temperature=0), cut

        return _written(begin, prompts)

    def chat(self, conversations: Sequence[Messages], max_tokens: int) -> list[Said | RequestError]:
        """As Speaker has it; conversations are never cut."""
        return _written(lambda messages: (self.model.chat_stream(messages, max_tokens=max_tokens, temperature=0), 0), conversations)

    def _read(self, prompt: Pair) -> tuple[list[int], list[list[int]]] | RequestError:
        try:
            ids, continuations = encode_continuations(self.model, *prompt)
            self.likelihoods.fit(ids, continuations)
        except RequestError as error:
            return error
        return ids, continuations


def _written(begin: Callable[[Item], tuple[Stream, int]], asked: Sequence[Item]) -> list[Said | RequestError]:
    """What a model writes behind many prompts, TOGETHER of them side by side."""
    found: list[Said | RequestError] = []
    for start in range(0, len(asked), TOGETHER):
        begun: list[tuple[Stream, int] | RequestError] = []
        for one in asked[start : start + TOGETHER]:
            try:
                begun.append(begin(one))
            except RequestError as error:
                begun.append(error)
        found += [one if isinstance(one, RequestError) else _end(*one) for one in begun]
    return found


def _end(stream: Stream, cut: int) -> Said | RequestError:
    gathered = Gathered(1)
    try:
        for piece in stream:
            gathered.add(piece)
    except RequestError as error:
        return error
    return Said(gathered.choices()[0].text, cut)


def open_endpoint(model: str, truncate: bool = False) -> Speaker:
    """An endpoint as api:URL#MODEL. Raises: ConfigError if it is to cut prompts, whose tokens only it knows; what RemoteModel raises."""
    if truncate:
        raise ConfigError(f"prompts are to be cut for {model}, which alone knows their tokens; leave truncate out, or give fewer shots")
    return RemoteModel(model)
