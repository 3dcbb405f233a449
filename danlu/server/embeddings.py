"""/v1/embeddings: requests take turns batch by batch, so that long lists let others pass, and who has left costs nothing."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from typing import Any

import torch
from fastapi import Request as HttpRequest
from fastapi.responses import JSONResponse, Response
from torch import Tensor
from torch.nn import functional as F

from danlu.base.errors import RequestError
from danlu.inference.embedding import Text
from danlu.inference.model import Model
from danlu.inference.sampling import told
from danlu.server.answer import unless_left

MOST_OPEN = 256  # requests for one model at a time
READ = 64  # texts of one request that are cut into tokens before others have their turn


class Embeddings:
    """One model's requests for vectors; each has as many batches under way as there are threads, and their batches take turns."""

    def __init__(self, model: Model) -> None:
        self.model = model
        self.open = 0

    async def compute(self, texts: Sequence[Text], truncate: bool, dimensions: int | None) -> tuple[Tensor, int]:
        """Vectors of texts (texts, dimensions), and tokens read. Raises: RequestError if one cannot be read, or too many ask at once."""
        if self.open >= MOST_OPEN:
            raise RequestError(f"{MOST_OPEN} requests are waiting already; ask again in a few seconds", code="queue_full")
        self.open += 1
        loop, embedder = asyncio.get_running_loop(), self.model.embedder
        try:
            if dimensions is not None and not 1 <= dimensions <= embedder.width:
                raise RequestError(f"dimensions came as {told(dimensions)}; expected 1 to {embedder.width}", param="dimensions")
            rows: list[Any] = []
            for start in range(0, len(texts), READ):
                rows += await loop.run_in_executor(embedder.threads, embedder.read, texts[start : start + READ], truncate, start)
            found, work = torch.empty(len(rows), embedder.width), iter(embedder.batches(rows))

            async def compute() -> None:
                for places in work:
                    if self.model.closed:
                        raise RequestError("the server stopped before the answer was complete", code="engine_stopped")
                    found[places] = await loop.run_in_executor(embedder.threads, embedder.vectors, [rows[place] for place in places])

            await asyncio.gather(*(compute() for _ in range(embedder.num_threads)))
            return found if dimensions is None else F.normalize(found[:, :dimensions], dim=-1), sum(map(len, rows))
        finally:
            self.open -= 1

    async def answer(self, http: HttpRequest, body: Any, texts: Sequence[Text], headers: dict[str, str]) -> Response:
        """The reply to one request, unless its client leaves before."""
        truncate = body.truncate_prompt_tokens is not None
        vectors, tokens = await unless_left(http, self.compute(texts, truncate, body.dimensions))
        written = await asyncio.to_thread(_written, vectors, body.encoding_format == "base64")
        content = {
            "object": "list",
            "data": [{"object": "embedding", "index": place, "embedding": vector} for place, vector in enumerate(written)],
            "model": body.model,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
        return await asyncio.to_thread(JSONResponse, content, headers=headers)


def _written(vectors: Tensor, base64_wanted: bool) -> list[Any]:
    """Vectors as lists of numbers, or as the base64 of little-endian float32."""
    if not base64_wanted:
        return vectors.tolist()
    return [base64.b64encode(vector.tobytes()).decode() for vector in vectors.numpy().astype("<f4")]
