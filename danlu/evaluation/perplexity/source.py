"""How well a model foretells a text that someone names: a run's own, a prepared folder, or a file as it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from danlu.base.device import choose_device, choose_precision
from danlu.base.errors import ConfigError, DataError
from danlu.data.prepared import MANIFEST, Prepared, open_prepared
from danlu.evaluation.perplexity.loss import TextLoss, measure_text
from danlu.inputs.tokenizer import Tokenizer
from danlu.models.loading import load_model

CHUNK_CHARACTERS = 2**20  # read at once; cut at a line's end


@dataclass(frozen=True, kw_only=True)
class Evaluated(TextLoss):
    """A score, and what it was measured on."""

    task: str
    model: str
    data: str
    split: str | None
    precision: str

    def __str__(self) -> str:
        part = f" ({self.split})" if self.split else ""
        return (
            f"{self.bits_per_byte:.4f} bits per byte (standard error {self.bits_per_byte_error:.4f}), "
            f"loss {self.loss_nats:.4f} nats per token, perplexity {self.perplexity:.2f}\n"
            f"{self.tokens:,} tokens, {self.bytes:,} bytes of {self.data}{part} in {self.wall_seconds:.1f} s"
        )


def measure_source(model: str, data: str, split: str | None, context_length: int | None, precision: str) -> Evaluated:
    """Foretell every token of a prepared folder's part, or of a text file, once.

    Raises: ConfigError if the model foretells no tokens; DataError if the text is of another tokenizer.
    """
    source = Path(data).expanduser()
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
        prepared, split = open_prepared(source), split or "validation"
        _check_tokenizer(prepared, loaded.tokenizer, model)
        measured = measure_text(module, prepared.split(split), prepared.bytes(split), prepared.separator_id, chosen, window)
    elif split is not None:
        raise ConfigError(f"--split came as {split} for {source}, which is measured whole; leave it out, or give a prepared folder")
    else:
        text = TextFile(source, loaded.tokenizer)
        measured = measure_text(module, text, text.num_bytes, start, chosen, window)
    return Evaluated(**asdict(measured), task="loss", model=model, data=str(source), split=split, precision=chosen)


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


def _check_tokenizer(prepared: Prepared, tokenizer: Tokenizer, model: str) -> None:
    if Tokenizer.load(prepared.tokenizer_folder).fingerprint != tokenizer.fingerprint:
        raise DataError(f"{prepared.folder} was tokenized for another model; prepare it with --tokenizer {model}, or give a text file")
