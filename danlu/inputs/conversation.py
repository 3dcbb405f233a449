"""Messages to token ids: the model's own template, in which nobody's words are read as control tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from danlu.base.errors import DanluError, RequestError
from danlu.inputs.chat import render
from danlu.inputs.tokenizer import END_OF_TEXT, Tokenizer

PLACE = "\ue000{}\ue001"  # private characters that no template writes


def chat_ids(tokenizer: Tokenizer | None, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """The prompt of a conversation, ready for the assistant's next words.

    Raises: RequestError if the model has no tokenizer or template, or a message tries to forge control tokens and cannot be kept apart.
    """
    if tokenizer is None:
        raise RequestError("this model has no tokenizer and cannot chat; send token ids to completions instead", param="messages")
    controls = [control_name(tokenizer, token) for token in tokenizer.special_ids]
    contents = [message["content"] for message in messages]
    if not any(control in content for content in contents for control in controls):
        return tokenizer.encode(render(tokenizer, messages), special=True)
    # Someone wrote a control token into a message. The template is rendered over marks, and the words go in as plain text.
    marked = [{**message, "content": PLACE.format(place)} for place, message in enumerate(messages)]
    rest = render(tokenizer, marked)
    ids: list[int] = []
    for place, content in enumerate(contents):
        before, mark, rest = rest.partition(PLACE.format(place))
        if not mark:
            raise RequestError("a message holds control tokens of this model; leave them out", param="messages")
        ids += tokenizer.encode(before, special=True) + tokenizer.encode(content)
    return ids + tokenizer.encode(rest, special=True)


def control_name(tokenizer: Tokenizer, token: int) -> str:
    """How a control token is written, where text has no place for it."""
    return tokenizer.raw.id_to_token(token) or ""


def end_ids(tokenizer: Tokenizer | None) -> set[int]:
    """Tokens that end an answer: the end of text, and whatever the template sets behind the assistant's words."""
    if tokenizer is None:
        return set()
    known = (tokenizer.end_of_text_id, tokenizer.raw.token_to_id(END_OF_TEXT))
    ends = {token for token in known if token is not None}
    if tokenizer.chat_template is None:
        return ends
    said = "\ue000"
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": said}]
    try:
        after = render(tokenizer, messages, add_generation_prompt=False).partition(said)[2]
    except DanluError:  # a template that wants something else; the end of text still ends
        return ends
    return ends | set(tokenizer.encode(after, special=True)[:1]) & set(tokenizer.special_ids)


def taught_ids(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]]) -> list[tuple[list[int], list[bool]]]:
    """What a model reads to learn a conversation: rows of ids, and which of them are the assistant's, its turns' ends included.

    Each answer stands behind the very ids that chat_ids asks with. That is one row, unless the template writes what was said otherwise
    once the conversation goes on (Qwen3's drops thoughts): from there on it is another row.
    Raises: RequestError if the template refuses the messages, or nothing would end an answer.
    """
    rows: list[tuple[list[int], list[bool]]] = []
    for place, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        asked, said = chat_ids(tokenizer, messages[:place]), answer_ids(tokenizer, messages[: place + 1])
        known: list[bool] = []
        if rows and asked[: len(rows[-1][0])] == rows[-1][0]:
            _, known = rows.pop()
        rows.append((asked + said, known + [False] * (len(asked) - len(known)) + [True] * len(said)))
    return rows


def answer_ids(tokenizer: Tokenizer, messages: Sequence[Mapping[str, str]]) -> list[int]:
    """The last message, the assistant's, as it would have to be generated: what the template writes of it, to its turn's end.

    Raises: RequestError if the template refuses the messages, or nothing would end the answer.
    """
    *before, last = messages
    asked, whole = render(tokenizer, before), render(tokenizer, messages, add_generation_prompt=False)
    marked = render(tokenizer, [*before, {**last, "content": PLACE.format(0)}], add_generation_prompt=False)
    frame, _, after = marked.removeprefix(asked).partition(PLACE.format(0))
    said = whole.removeprefix(asked).removesuffix(after)
    if asked + said + after != whole or not marked.startswith(asked):
        raise RequestError("the model's chat template writes an answer otherwise than it asks for one", param="messages")
    controls = {control_name(tokenizer, token): token for token in tokenizer.special_ids}
    ends = [(after.index(name), -len(name), controls[name]) for name in controls if name and name in after]
    place, _, end = min(ends, default=(0, 0, tokenizer.end_of_text_id))
    if end is None:
        raise RequestError("the model's chat template sets nothing behind an answer, and there is no end of text", param="messages")
    if not any(name in last["content"] for name in controls if name):
        return [*tokenizer.encode(said + after[:place], special=True), end]
    if not said.startswith(frame):  # as in chat_ids: what someone wrote is text, never a control token
        raise RequestError("a message holds control tokens of this model; leave them out", param="messages")
    return [*tokenizer.encode(frame, special=True), *tokenizer.encode(said.removeprefix(frame) + after[:place]), end]
