"""Messages to token ids: the model's own template, in which nobody's words are read as control tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from danlu.base.errors import DanluError, RequestError
from danlu.inference.text import control_name
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
