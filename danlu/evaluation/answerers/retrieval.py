"""Queries and documents as vectors: at which rank does a query find its own document among all?"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from danlu.base.errors import DataError
from danlu.data.answers import Answer, Refused
from danlu.data.choices import RetrieveExample
from danlu.data.examples import Example
from danlu.inference.model import Model


class Retriever:
    """Finds documents by the cosine of a model's vectors. `fit` must have seen every document among which is to be found."""

    labels: tuple[str, ...] = ()

    def __init__(self, model: Model, *, truncate: bool = False) -> None:
        self.name, self.model, self.truncate = model.name, model, truncate
        self.documents: list[str] = []
        self.cut: list[int] = []  # tokens of each document that were left out
        self.vectors: Tensor = torch.empty(0, 0)

    def fit(self, examples: Sequence[Example]) -> None:
        """Take over the documents, each once."""
        self.documents = list(dict.fromkeys(example.document for example in examples if isinstance(example, RetrieveExample)))
        if not self.documents:
            raise DataError("there are no documents to find; expected rows of query and document")
        self.vectors, self.cut = self.model.embed(self.documents, self.truncate), self._cut(self.documents)

    def answer(self, examples: Sequence[Example]) -> list[Answer | Refused]:
        """The rank of each example's document: 1 if no other is nearer; what is equally near does not count against it."""
        pairs = [example for example in examples if isinstance(example, RetrieveExample)]
        places = {document: place for place, document in enumerate(self.documents)}
        near = self.model.embed([pair.query for pair in pairs], self.truncate) @ self.vectors.T  # (queries, documents)
        own = near.gather(1, torch.tensor([[places[pair.document]] for pair in pairs]))
        ranks = 1 + (near > own + 1e-6).sum(1)
        cuts = self._cut([pair.query for pair in pairs])
        return [
            Answer(value=float(rank), cut=cut + self.cut[places[pair.document]]) for rank, cut, pair in zip(ranks, cuts, pairs, strict=True)
        ]

    def _cut(self, texts: Sequence[str]) -> list[int]:
        return self.model.embedder.cut(texts) if self.truncate else [0] * len(texts)
