"""The OpenAI API over loaded models."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from danlu.base.errors import RequestError
from danlu.inference.model import Model
from danlu.inference.sampling import told
from danlu.inputs.conversation import chat_ids
from danlu.server import errors, schema
from danlu.server.answer import Answer, Asked, EventStream, unless_left, whole
from danlu.server.body import read_json
from danlu.server.classes import Classes
from danlu.server.embeddings import Embeddings
from danlu.server.guard import Guard
from danlu.server.replies import ChatShape, CompletionShape

STUCK_SECONDS = 60.0  # an engine that has been in one step for so long is not well


class Service:
    """The models by every name they answer to, and whether the server is about to stop."""

    def __init__(self, models: Mapping[str, Model], aliases: Mapping[str, str]) -> None:
        self.models, self.aliases = dict(models), dict(aliases)
        # Now, so that an encoder whose folder asks for what embed does not know is refused before anybody asks.
        self.context_lengths = {name: _context_length(model) for name, model in self.models.items()}
        self.embeddings = {model: Embeddings(model) for model in self.models.values()}
        self.classes = {model: Classes(model) for model in self.models.values()}
        self.created = int(time.time())
        self.stopping = False

    def find(self, name: str | None) -> Model:
        """A model by name or alias. Raises: RequestError if there is none."""
        if name is None:
            raise RequestError("model is missing; name one of /v1/models", param="model")
        found = self.models.get(self.aliases.get(name, name))
        if found is None:
            raise RequestError(
                f"there is no model {told(name)} here; /v1/models lists those there are", param="model", code="model_not_found"
            )
        return found

    def card(self, name: str) -> dict[str, Any]:
        """What /v1/models says about one name."""
        self.find(name)
        context = self.context_lengths[self.aliases.get(name, name)]
        card = {"id": name, "object": "model", "created": self.created, "owned_by": "danlu", "context_length": context}
        return {**card, "root": self.aliases[name]} if name in self.aliases else card

    def health(self) -> tuple[int, dict[str, Any]]:
        """The truth about the models, with the status that tells it."""
        models = {name: self._state(model) for name, model in self.models.items()}
        well = not self.stopping and all(state["status"] == "ok" for state in models.values())
        return (200 if well else 503), {"status": "ok" if well else "stopping" if self.stopping else "failed", "models": models}

    def _state(self, model: Model) -> dict[str, Any]:
        if not model.generates:
            running = self.embeddings[model].open + self.classes[model].open
            return {"status": "failed" if model.closed else "ok", "running": running, "waiting": 0}
        status = model.status()
        well = status.alive and status.seconds_in_step < STUCK_SECONDS
        return {"status": "ok" if well else "failed", "running": status.running, "waiting": status.waiting}


def _context_length(model: Model) -> int:
    """The most tokens of one request's text."""
    return model.engine.context_length if model.generates else model.embedder.longest


def make_app(service: Service) -> FastAPI:
    """The app over a service."""
    app = FastAPI(title="Danlu", docs_url=None, redoc_url=None, redirect_slashes=False)
    app.add_middleware(Guard, stopping=lambda: service.stopping)
    errors.install(app)

    @app.get("/health")
    async def health() -> Response:
        status, content = service.health()
        return JSONResponse(content, status_code=status)

    @app.get("/v1/models")
    async def list_models() -> dict[str, Any]:
        return {"object": "list", "data": [service.card(name) for name in [*service.models, *service.aliases]]}

    @app.get("/v1/models/{name:path}")
    async def get_model(name: str) -> dict[str, Any]:
        service.find(name)
        return service.card(name)

    @app.post("/v1/completions", openapi_extra=_described(schema.CompletionRequest))
    async def completions(http: Request) -> Response:
        return await _complete(service, http, None)

    @app.post("/v1/chat/completions", openapi_extra=_described(schema.ChatRequest))
    async def chat_completions(http: Request) -> Response:
        return await _chat(service, http, None)

    @app.post("/v1/embeddings", openapi_extra=_described(schema.EmbeddingRequest))
    async def embeddings(http: Request) -> Response:
        return await _embed(service, http, None)

    @app.post("/classify", openapi_extra=_described(schema.ClassifyRequest))
    async def classify(http: Request) -> Response:
        return await _classify(service, http)

    @app.post("/v1/engines/{engine:path}/embeddings", openapi_extra=_described(schema.EmbeddingRequest))
    async def engine_embeddings(engine: str, http: Request) -> Response:
        return await _embed(service, http, engine)

    @app.post("/v1/engines/{engine:path}/chat/completions", openapi_extra=_described(schema.ChatRequest))
    async def engine_chat_completions(engine: str, http: Request) -> Response:
        return await _chat(service, http, engine)

    @app.post("/v1/engines/{engine:path}/completions", openapi_extra=_described(schema.CompletionRequest))
    async def engine_completions(engine: str, http: Request) -> Response:
        return await _complete(service, http, engine)

    return app


async def _complete(service: Service, http: Request, engine: str | None) -> Response:
    content = await read_json(http)
    body: Any = schema.read(schema.CompletionRequest, content)
    name = engine or body.model
    model, sampling, prompts = service.find(name), schema.sampling_of(body), schema.prompts_of(body)
    include_usage = schema.wants_usage(body)
    # Off the loop: a long text takes a while to be cut into tokens, and nobody else is to wait for it.
    ids = await asyncio.to_thread(lambda: [model.encode(prompt) for prompt in prompts])
    await asyncio.to_thread(model.engine_for, sampling)
    echoes = [_echo(model, prompt) if body.echo else "" for prompt in prompts]
    shape = CompletionShape(name)
    asked = Asked(
        model=model,
        prompts=ids,
        echoes=echoes,
        sampling=sampling,
        shape=shape,
        include_usage=include_usage,
        warnings=schema.warnings_of(body),
    )
    return EventStream(Answer(asked)) if body.stream else await whole(http, asked)


async def _chat(service: Service, http: Request, engine: str | None) -> Response:
    content = await read_json(http)
    body: Any = schema.read(schema.ChatRequest, content)
    name = engine or body.model
    model, sampling, messages = service.find(name), schema.sampling_of(body), schema.messages_of(body)
    model.check_generates()
    include_usage = schema.wants_usage(body)
    model.check_characters(sum(len(message["content"]) for message in messages))
    ids = await asyncio.to_thread(chat_ids, model.tokenizer, messages)
    asked = Asked(
        model=model,
        prompts=[ids],
        echoes=[""],
        sampling=sampling,
        shape=ChatShape(name),
        include_usage=include_usage,
        warnings=schema.warnings_of(body),
    )
    return EventStream(Answer(asked)) if body.stream else await whole(http, asked)


async def _embed(service: Service, http: Request, engine: str | None) -> Response:
    content = await read_json(http)
    body: Any = schema.read(schema.EmbeddingRequest, content)
    body.model = engine or body.model
    model, texts = service.find(body.model), schema.inputs_of(body)
    warnings = schema.warnings_of(body)
    return await service.embeddings[model].answer(http, body, texts, {"warnings": warnings} if warnings else {})


async def _classify(service: Service, http: Request) -> Response:
    content = await read_json(http)
    body: Any = schema.read(schema.ClassifyRequest, content)
    model, texts = service.find(body.model), [str(text) for text in schema.inputs_of(body)]
    data = await unless_left(http, service.classes[model].answer(texts))
    warnings = schema.warnings_of(body)
    reply = {"object": "list", "created": int(time.time()), "model": body.model, "data": data}
    return JSONResponse(reply, headers={"warnings": warnings} if warnings else {})


def _echo(model: Model, prompt: str | list[int]) -> str:
    if isinstance(prompt, str):
        return prompt
    return "" if model.tokenizer is None else model.tokenizer.decode(prompt)


def _described(body: type[BaseModel]) -> dict[str, Any]:
    """A route's body for /openapi.json; it is read by hand, so that its bounds hold before anything is parsed."""
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": body.model_json_schema()}}}}
