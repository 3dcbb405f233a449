"""The chat template of a model that has none and is to learn conversations."""

from __future__ import annotations

from danlu.inputs.tokenizer import Tokenizer

MARKS = ("<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# In words, for vocabularies without marks: only the end of an answer must be a token of its own.
PLAIN = (
    "{% for message in messages %}{{ message['role'] + ':\\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\\n\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant:\\n' }}{% endif %}"
)


def with_template(tokenizer: Tokenizer) -> tuple[Tokenizer, str]:
    """The tokenizer with a chat template, and what to tell of it: nothing if it had its own.

    ChatML where its marks are control tokens of the vocabulary, which is never changed; else roles as plain words.
    """
    if tokenizer.chat_template is not None:
        return tokenizer, ""
    has_marks = all(tokenizer.raw.token_to_id(mark) in tokenizer.special_ids for mark in MARKS)
    begins = "{{ bos_token }}" if tokenizer.bos_id is not None and tokenizer.frame[0] == [tokenizer.bos_id] else ""
    template = begins + (CHATML if has_marks else PLAIN)
    told = "ChatML" if has_marks else f"plain `role:` lines, since its vocabulary has no {MARKS[0]}"
    return Tokenizer(tokenizer.raw, tokenizer.settings | {"chat_template": template}), told
