"""danlu serve: models behind the OpenAI API."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from danlu.base.device import set_threads
from danlu.base.errors import ConfigError
from danlu.inference.model import Model, load
from danlu.server.app import Service
from danlu.server.run import Server, address, bind


def serve(
    *models: str,
    alias: Sequence[str] = (),
    host: str = "127.0.0.1",
    port: int = 8000,
    precision: str = "auto",
    threads: int | None = None,
) -> None:
    """Serve models behind the OpenAI API until Ctrl-C or SIGTERM.

    Parameters
    ----------
    models
        Runs, Hugging Face folders, .gguf files, catalog names or hf:owner/name; each answers to its name.
    alias
        NAME=MODEL: one more name for a model, which is loaded if it is not among the models; may be given several times.
    host
        Address to listen on; only this machine's own while there are no keys.
    port
        Port to listen on; 0 takes any free one.
    precision
        The numbers that decoders answer in: float32, bfloat16, int8, int4; auto: what the file has, or what is quick here.
    threads
        CPU threads to compute with; all cores unless given.
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    set_threads(threads)
    aliases = dict(_split(entry) for entry in alias)
    wanted = list(dict.fromkeys([*models, *aliases.values()]))
    if not wanted:
        raise ConfigError("no model came; name at least one: danlu serve MODEL, for instance smollm2-135m-instruct")
    names = public_names(wanted)
    if taken := sorted(set(aliases) & set(names.values())):
        raise ConfigError(f"the alias {taken[0]} is a model's own name; choose another")
    listener = bind(host, port)
    loaded: dict[str, Model] = {}
    try:
        for model in wanted:
            print(f"danlu: loading {names[model]}", file=sys.stderr, flush=True)
            loaded[names[model]] = load(model, precision=precision)
        service = Service(loaded, {name: names[model] for name, model in aliases.items()})

        def ready() -> None:
            told = ", ".join([*loaded, *aliases])
            print(f"danlu: serving on {address(listener)} ({told}); no keys exist: any key is accepted, from this machine only", flush=True)

        Server(service, on_ready=ready).run(sockets=[listener])
    finally:
        listener.close()
        for opened in loaded.values():
            opened.close()
    print("danlu: stopped", file=sys.stderr, flush=True)


def _split(entry: str) -> tuple[str, str]:
    name, equals, model = entry.partition("=")
    if not (name and equals and model):
        raise ConfigError(f"the alias came as {entry}; expected NAME=MODEL")
    return name, model


def public_names(models: Sequence[str]) -> dict[str, str]:
    """The name that each model answers to: as it was given, but of a path only the last part that says something.

    Raises: ConfigError if two models would answer to the same name.
    """
    names: dict[str, str] = {}
    for model in models:
        name = _public_name(model)
        if name in names.values():
            raise ConfigError(f"two models would be called {name}; rename one of their folders")
        names[model] = name
    return names


def _public_name(model: str) -> str:
    path = Path(model).expanduser()
    if not path.exists():
        return model
    parts = [part for part in path.resolve().parts if part not in ("final", "checkpoints")]
    return parts[-1].removesuffix(".gguf")
