"""/classify: the classes of texts, in the shape that vLLM gives them; requests take turns batch by batch."""

from __future__ import annotations

import asyncio
from functools import cached_property
from typing import Any

from danlu.base.errors import ConfigError, RequestError
from danlu.data.answers import Answer, Refused
from danlu.data.examples import ClassifyExample
from danlu.inference.model import Model
from danlu.inference.predicting import Predictor

BATCH = 32  # texts of one request that are answered before others have their turn
MOST_OPEN = 256  # requests for one model at a time


class Classes:
    """One model's requests for classes."""

    def __init__(self, model: Model) -> None:
        self.model, self.open = model, 0

    @cached_property
    def predictor(self) -> Predictor:
        """What answers. Raises: RequestError if the model has no classes."""
        try:
            return Predictor(self.model, "classify")
        except ConfigError as error:
            raise RequestError(str(error), param="model", code="not_supported") from None

    async def answer(self, texts: list[str]) -> list[dict[str, Any]]:
        """A class for each text. Raises: RequestError if one is too long, or too many ask at once."""
        if self.open >= MOST_OPEN:
            raise RequestError(f"{MOST_OPEN} requests are waiting already; ask again in a few seconds", code="queue_full")
        self.open += 1
        try:
            predictor, found = self.predictor, list[dict[str, Any]]()
            for start in range(0, len(texts), BATCH):
                if self.model.closed:
                    raise RequestError("the server stopped before the answer was complete", code="engine_stopped")
                examples = [ClassifyExample(text=text, label="") for text in texts[start : start + BATCH]]
                for answer in await asyncio.to_thread(predictor.answer, examples):
                    found.append(_said(len(found), answer))
            return found
        finally:
            self.open -= 1


def _said(index: int, answer: Answer | Refused) -> dict[str, Any]:
    if isinstance(answer, Refused):
        raise RequestError(f"input {index} is {answer.reason.partition(';')[0]}; shorten it", param="input", code="context_length_exceeded")
    return {"index": index, "label": answer.label, "probs": list(answer.scores), "num_classes": len(answer.scores)}
