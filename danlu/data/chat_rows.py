"""Conversations as rows of token ids, in which the assistant's words alone are asked for."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from danlu.base.errors import DataError, RequestError
from danlu.data.conversations import ChatExample
from danlu.data.supervised import Row
from danlu.inputs.conversation import taught_ids
from danlu.inputs.tokenizer import Tokenizer
from danlu.nn.loss import IGNORED

SHOWN = 40  # characters of a conversation in a message


def encode_conversations(
    examples: Sequence[ChatExample], tokenizer: Tokenizer, max_tokens: int, truncate: bool = False
) -> tuple[list[Row], int, list[str], int]:
    """Conversations as rows for a model that reads `max_tokens` at once; how many were cut, why the template refused others, and how many
    gave no row, since no answer stands before the cut.

    A row's target is the token after each, where that is the assistant's; its ids are those that serving makes. What lies behind the
    cut is left out.
    Raises: DataError if a conversation is longer and must not be cut.
    """
    rows, cut, refused, emptied = list[Row](), 0, list[str](), 0
    for example in examples:
        begins = f"the conversation that begins {example.messages[0][1][:SHOWN]!r}"
        try:
            found = taught_ids(tokenizer, [{"role": role, "content": content} for role, content in example.messages])
        except RequestError as error:
            refused.append(f"{begins}: {error}")
            continue
        longest = max(len(ids) for ids, _ in found) - 1  # the last token is foretold, not read
        if longest > max_tokens and not truncate:
            raise DataError(
                f"{begins} is {longest} tokens long and the model reads {max_tokens}; shorten it, or cut all such with --truncate"
            )
        cut += longest > max_tokens
        asking = [row for row in (_row(ids, counts, max_tokens) for ids, counts in found) if (row.target != IGNORED).any()]
        emptied += not asking
        rows += asking
    return rows, cut, refused, emptied


def _row(ids: list[int], counts: list[bool], max_tokens: int) -> Row:
    whole, counted = np.array(ids[: max_tokens + 1], dtype=np.int64), np.array(counts[: max_tokens + 1])
    return Row(ids=whole[:-1], segments=np.zeros(len(whole) - 1, dtype=np.int64), target=np.where(counted, whole, IGNORED)[1:])
