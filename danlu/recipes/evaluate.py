"""`danlu evaluate`: how good a model is on a text."""

from __future__ import annotations

import json as encoder
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from danlu.base.device import choose_device, choose_precision, set_threads
from danlu.base.errors import ConfigError, DataError
from danlu.base.run import Run
from danlu.data.prepared import MANIFEST, Prepared, open_prepared
from danlu.evaluation.loss import TextLoss, measure_text
from danlu.inputs.tokenizer import Tokenizer
from danlu.models.loading import load_model
from danlu.training.config import read_sources

CHUNK_CHARACTERS = 2**20  # read at once; cut at a line's end


@dataclass(frozen=True, kw_only=True)
class Evaluated(TextLoss):
    """A score, and what it was measured on."""

    task: str
    model: str
    data: str
    split: str | None
    precision: str


def evaluate(
    model: str,
    *,
    task: str = "loss",
    data: str | None = None,
    split: str = "validation",
    context_length: int | None = None,
    precision: str = "float32",
    threads: int | None = None,
    json: bool = False,
) -> Evaluated:
    """Measure a model: loss, perplexity and bits per byte, each token foretold once from the text before it in its window.

    Parameters
    ----------
    model
        A run, a Hugging Face folder, a .gguf file, a catalog name or hf:owner/name.
    task
        What to measure: "loss". More come with later versions.
    data
        A prepared folder, or a text file that is taken as it is, byte for byte. By default the text that a run was trained on.
    split
        Which part of a prepared folder: validation, test or train.
    context_length
        Length of the windows; by default what the model was trained for, 1024 at most.
    precision
        float32, bfloat16 or auto.
    threads
        CPU threads; all cores unless given.
    json
        Print one JSON object at the end.
    """
    set_threads(threads)
    if task != "loss":
        raise ConfigError(f"--task came as {task!r}; this version measures 'loss'")
    source = Path(data or _data_of(model)).expanduser()
    loaded = load_model(model)
    if loaded.tokenizer is None:
        raise ConfigError(f"{model} has no tokenizer, so it cannot read text; expected tokenizer.json beside its weights")
    if loaded.family.pretraining != "next-token":
        learns = loaded.family.pretraining.replace("-", " ")
        raise ConfigError(f"{model} does not foretell next tokens (it learns {learns}); its own held-out loss is in its run's evaluation/")
    device = choose_device()
    chosen, _ = choose_precision(precision, device)
    start = next((id for id in (loaded.tokenizer.bos_id, loaded.tokenizer.end_of_text_id) if id is not None), 0)
    module, window = loaded.module.to(device), context_length or min(loaded.config.context_length, 1024)
    if (source / MANIFEST).is_file():
        prepared = open_prepared(source)
        _check_tokenizer(prepared, loaded.tokenizer, model)
        measured = measure_text(module, prepared.split(split), prepared.bytes(split), prepared.separator_id, chosen, window)
    else:
        text = TextFile(source, loaded.tokenizer)
        measured = measure_text(module, text, text.num_bytes, start, chosen, window)
    used = split if (source / MANIFEST).is_file() else None
    result = Evaluated(**asdict(measured), task=task, model=model, data=str(source), split=used, precision=chosen)
    if Run(Path(model)).exists():
        Run(Path(model)).write_evaluation(task, asdict(result))
    if json:
        print(encoder.dumps(asdict(result), ensure_ascii=False), flush=True)
    else:
        print(
            f"{result.bits_per_byte:.4f} bits per byte (standard error {result.bits_per_byte_error:.4f}), "
            f"loss {result.loss_nats:.4f} nats per token, perplexity {result.perplexity:.2f}\n"
            f"{result.tokens:,} tokens, {result.bytes:,} bytes of {source}{f' ({used})' if used else ''} in {result.wall_seconds:.1f} s"
        )
    return result


class TextFile:
    """A text file as tokens, a part at a time.

    Raises: DataError when it is missing, empty or no UTF-8 text.
    """

    def __init__(self, path: Path, tokenizer: Tokenizer) -> None:
        self.path, self.tokenizer = path, tokenizer
        if not path.is_file():
            raise DataError(f"{path} is no file and no prepared folder; expected a text file, or a folder made by danlu prepare")
        self.num_bytes = path.stat().st_size
        if not self.num_bytes:
            raise DataError(f"{path} is empty; expected text")

    def __iter__(self) -> Iterator[NDArray[Any]]:
        held = ""
        try:
            with self.path.open(encoding="utf-8", newline="") as file:
                while part := file.read(CHUNK_CHARACTERS):
                    held += part
                    cut = held.rfind("\n") + 1 or (len(held) if len(held) >= 8 * CHUNK_CHARACTERS else 0)
                    if cut:
                        yield self.tokenizer.encode_batch([held[:cut]])[0]
                        held = held[cut:]
        except UnicodeDecodeError as error:
            raise DataError(
                f"{self.path} is no UTF-8 text ({error.reason} at byte {error.start}); convert it, or use danlu prepare"
            ) from None
        if held:
            yield self.tokenizer.encode_batch([held])[0]


def _data_of(model: str) -> str:
    run = Run(Path(model))
    if not run.exists():
        raise ConfigError(f"{model} is no run, so its text is not known: give --data FILE or a prepared folder")
    if run.data.is_dir():
        return str(run.data)
    given = run.config["data"]
    sources = [name for name, _ in read_sources([given] if isinstance(given, str) else given)]
    if len(sources) > 1:
        raise ConfigError(f"{model} was trained on {', '.join(sources)}; name one with --data")
    return sources[0]


def _check_tokenizer(prepared: Prepared, tokenizer: Tokenizer, model: str) -> None:
    if Tokenizer.load(prepared.tokenizer_folder).fingerprint != tokenizer.fingerprint:
        raise DataError(f"{prepared.folder} was tokenized for another model; prepare it with --tokenizer {model}, or give a text file")
