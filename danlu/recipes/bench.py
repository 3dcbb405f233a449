"""`danlu bench decode`: how fast a model answers here; `danlu bench quality`: what each precision costs."""

from __future__ import annotations

import json as encoder
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from danlu.base.device import set_threads
from danlu.base.errors import ConfigError, DataError
from danlu.evaluation.perplexity.fidelity import WINDOW, Fidelity, measure_fidelity
from danlu.inference.model import load
from danlu.inference.speed import Meter, Speed
from danlu.kernels.packing import PRECISIONS
from danlu.models.loading import open_model

app = App(name="bench", help="How fast a model answers on this machine, and what it costs in quality.")


@app.command
def decode(
    model: str,
    *,
    batch: Annotated[tuple[int, ...], Parameter(consume_multiple=True)] = (1, 8, 32),
    prompt: int = 512,
    tokens: int = 128,
    context: int = 0,
    temperature: float = 0.0,
    precision: str = "auto",
    threads: int | None = None,
    json: bool = False,
) -> list[Speed]:
    """Tokens a second through the engine: answers that advance together, one long prompt, and the wait for a first token.

    Prompts are drawn at random and no answer ends early; the best of three turns counts. Run nothing beside it.

    Parameters
    ----------
    model
        A run, a Hugging Face folder, a .gguf file, a catalog name or hf:owner/name.
    batch
        How many answers advance together; several may be given.
    prompt
        Tokens of the long prompt; 0 leaves it out.
    tokens
        New tokens of each answer.
    context
        Tokens that each answer has behind it when the clock begins; without it prompts are short, and counted in the time.
    temperature
        0: answers are greedy, as other engines are measured; from 0.00001 on their tokens are drawn.
    precision
        auto, float32, bfloat16, int8 or int4.
    threads
        CPU threads to compute with; all cores unless given.
    json
        Print one JSON object a figure.
    """
    set_threads(threads)
    if min((*batch, tokens), default=0) < 1 or min(prompt, context) < 0:
        raise ConfigError(f"batch, tokens, prompt and context came as {batch}, {tokens}, {prompt}, {context}; expected positive numbers")
    found = []
    with load(model, precision=precision) as loaded:
        loaded.check_generates()
        if max(batch) > (most := loaded.limits.sequences):
            raise ConfigError(f"--batch came as {max(batch)}; at most {most} answers advance together")
        meter = Meter(loaded, temperature=temperature)
        meter.decode(1, 4)  # the engine is made, and memory is touched

        def tell(speed: Speed) -> None:
            found.append(speed)
            print(_line(speed, loaded.precision, json), flush=True)

        for size in batch:
            tell(meter.decode(size, tokens, context))
        if prompt:
            tell(meter.prefill(prompt))
        tell(meter.first_token())
    return found


def _line(speed: Speed, precision: str, json: bool) -> str:
    if json:
        told = {key: round(value, 2) if isinstance(value, float) else value for key, value in asdict(speed).items() if value is not None}
        return encoder.dumps({"engine": "danlu", "precision": precision} | told)
    if speed.milliseconds is not None:
        return f"first token of a short prompt: {speed.milliseconds:.1f} ms ({precision})"
    behind = f", {speed.context} tokens behind each" if speed.context else ""
    who = "one prompt" if speed.what == "prefill" else f"{speed.batch} at once{behind}"
    return f"{speed.what}, {who}: {speed.tokens_per_second:.0f} tokens/s ({precision})"


@app.command
def quality(
    model: str,
    *,
    text: Path,
    precisions: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = PRECISIONS,
    context: int = WINDOW,
    tokens: int = 4096,
    threads: int | None = None,
    json: bool = False,
) -> list[Fidelity]:
    """Perplexity of a text in each precision, and how far its distributions are from float32's.

    Parameters
    ----------
    model
        A run, a Hugging Face folder, a .gguf file, a catalog name or hf:owner/name.
    text
        A file of text, best of the kind that the model is for.
    precisions
        Which precisions to put beside float32.
    context
        Tokens of one window; each token sees those before it there.
    tokens
        How many tokens of the text are read; 0: all.
    threads
        CPU threads to compute with; all cores unless given.
    json
        Print one JSON object a precision.
    """
    set_threads(threads)
    for precision in precisions:
        if precision not in PRECISIONS:
            raise ConfigError(f"a precision came as {precision!r}; expected {', '.join(PRECISIONS)}")
    if context < 2 or tokens < 0:
        raise ConfigError(f"context and tokens came as {context} and {tokens}; expected at least 2, and 0 or more")
    try:
        content = text.read_text(encoding="utf-8")
    except (FileNotFoundError, IsADirectoryError):
        raise DataError(f"{text} is no file here; --text takes a file of text") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{text} is not UTF-8 ({error}); convert it first") from None
    opened = open_model(model)
    if opened.family.pretraining != "next-token":
        raise ConfigError(f"{model} foretells no next tokens, which is what precisions are compared by; expected a decoder")
    if opened.tokenizer is None:
        raise ConfigError(f"{model} has no tokenizer, and a text must be cut into its tokens")
    ids = opened.tokenizer.encode(content)
    found = measure_fidelity(opened, ids[:tokens] if tokens else ids, precisions, context)  # type: ignore[arg-type]
    if not json:
        titles = f"{'precision':<10}{'MB':>7}{'perplexity':>12}{'ratio':>9}{'KL, nats':>11}{'same top token':>16}"
        print(f"{titles}   over {found[0].tokens:,} tokens")
    for one in found:
        print(encoder.dumps(asdict(one)) if json else _row(one), flush=True)
    return found


def _row(one: Fidelity) -> str:
    figures = f"{one.megabytes:>7.0f}{one.perplexity:>12.3f}{one.perplexity_ratio:>9.4f}{one.kl_nats:>11.5f}{one.agreement:>16.2%}"
    return f"{one.precision:<10}{figures}"
