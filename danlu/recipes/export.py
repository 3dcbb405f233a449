"""`danlu export`: a model as files that other programs open."""

from __future__ import annotations

import json as encoder
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from danlu.base.device import set_threads
from danlu.base.errors import CheckpointError, ConfigError
from danlu.base.progress import amount_text
from danlu.base.storage import whole_folder
from danlu.models.base import Inputs
from danlu.models.gguf import FILE_TYPES, write_settings
from danlu.models.loading import Loaded, load_model, save_gguf, save_model

KIND = "F16"
ALLOWED = {"F32": 1e-4, "F16": 1e-2}  # largest difference of answers; what fewer bits change is only told
LONGEST = 64  # tokens that are compared
TEXT = "In 2024, it's 3.14159 — 语言模型 isn't  a toy:\n\n    def f(x):\treturn x ** 2  # 😀\n"  # all that tokenizers cut differently


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written, and how its answers differ when read back: the largest difference as a share of the largest number, and both in
    the root mean square.
    """

    model: str
    out: str
    format: str
    kind: str
    bytes: int
    largest_difference: float
    mean_difference: float
    wall_seconds: float


def export(
    model: str | Path, *, format: str, out: str | Path, kind: str | None = None, threads: int | None = None, json: bool = False
) -> Exported:
    """Write a model as files that other programs open; what was written is read back and compared before it counts.

    Parameters
    ----------
    model
        A run, a Hugging Face folder, a .gguf file, a catalog name or hf:owner/name.
    format
        gguf: one file for llama.cpp and all that is built on it. hf: a folder for transformers, vLLM and others.
    out
        The file (its name ends in .gguf) or folder to write, which is not there yet.
    kind
        What the weights of a GGUF file are packed as: F32, F16, Q8_0 or Q4_0 (32, 16, 8.5 or 4.5 bits each); F16 unless given.
    threads
        CPU threads; all cores unless given.
    json
        Print one JSON object at the end.
    """
    began, out = time.perf_counter(), Path(out).expanduser()
    set_threads(threads)
    _check(format, out, kind)
    loaded = load_model(str(model))
    kind = (kind or KIND) if format == "gguf" else "F32"
    if format == "gguf":
        save_gguf(loaded.module, loaded.family, loaded.tokenizer, out, kind)
        try:
            largest, mean = _compare(loaded, load_model(str(out)), kind)
        except BaseException:
            out.unlink()
            raise
        size = out.stat().st_size
    else:
        with whole_folder(out) as folder:
            save_model(loaded.module, loaded.family, loaded.tokenizer, folder)
            largest, mean = _compare(loaded, load_model(str(folder)), kind)
        size = sum(file.stat().st_size for file in out.iterdir())
    exported = Exported(
        model=str(model),
        out=str(out),
        format=format,
        kind=kind,
        bytes=size,
        largest_difference=largest,
        mean_difference=mean,
        wall_seconds=time.perf_counter() - began,
    )
    if json:
        print(encoder.dumps(asdict(exported), ensure_ascii=False), flush=True)
    else:
        told = f"{out}: {amount_text(size, 'B')}, {kind}; read back, its answers differ by {mean:.2%}, at most by {largest:.2%}"
        print("\n  next: ".join([told, *_next(exported, loaded)]))
    return exported


def _check(format: str, out: Path, kind: str | None) -> None:
    if format == "onnx":
        raise ConfigError("--format came as onnx, which comes with a later version; expected gguf or hf")
    if format not in ("gguf", "hf"):
        raise ConfigError(f"--format came as {format!r}; expected gguf or hf")
    if kind is not None and (format != "gguf" or kind not in FILE_TYPES):
        raise ConfigError(f"--kind came as {kind!r} for {format}; expected one of {', '.join(FILE_TYPES)} for gguf, and none for hf")
    if format == "gguf" and out.suffix != ".gguf":
        raise ConfigError(f"--out came as {out}; expected a name that ends in .gguf")
    if out.exists():
        raise ConfigError(f"{out} is there already and is not overwritten; choose another --out")


def _compare(loaded: Loaded, again: Loaded, kind: str) -> tuple[float, float]:
    """How answers differ: at most, and in the root mean square. Raises: CheckpointError if something came back otherwise."""

    def settings(model: Loaded) -> dict[str, Any]:
        written = model.family.write_config(model.config)
        return write_settings(written) if again.path.suffix == ".gguf" else written

    expected, found = settings(loaded), settings(again)
    if changed := [name for name in expected | found if expected.get(name) != found.get(name)]:
        raise CheckpointError(f"{', '.join(changed)} came back otherwise than written, which is a defect of Danlu; keep to {loaded.path}")
    ids = list(range(loaded.config.vocabulary_size))
    if loaded.tokenizer is not None and again.tokenizer is not None:
        ids = loaded.tokenizer.encode(TEXT)
        if again.tokenizer.encode(TEXT) != ids:
            raise CheckpointError(f"the tokenizer came back as another, which is a defect of Danlu; keep to {loaded.path}")
    tokens = torch.tensor([ids[: min(LONGEST, loaded.config.context_length)]])
    answers = _answers(loaded, tokens)
    off = _answers(again, tokens) - answers
    largest = float(off.abs().max() / answers.abs().max())
    if not largest <= ALLOWED.get(kind, float("inf")):  # not a number is no agreement either
        raise CheckpointError(
            f"as {kind} its answers differ by up to {largest:.2%}, more than that explains; write F32, or keep to {loaded.path}"
        )
    return largest, float((off.square().mean() / answers.square().mean()).sqrt())


@torch.inference_mode()
def _answers(loaded: Loaded, tokens: Tensor) -> Tensor:
    module: Any = loaded.module
    hidden: Tensor = module(Inputs(tokens=tokens, source=tokens))
    has_head = getattr(loaded.config, "head", ...) is not None
    return module.logits(hidden) if has_head else hidden


def _next(exported: Exported, loaded: Loaded) -> list[str]:
    """What can be done with it, here and elsewhere."""
    generates = loaded.family.memory != "none"
    lines = [f"danlu generate {exported.out} PROMPT" if generates else f'danlu.load("{exported.out}") in Python']
    if exported.format == "gguf":
        lines.append(f"{'llama-cli' if generates else 'llama-embedding'} -m {exported.out} (llama.cpp)")
    elif loaded.family.name != "rnn":  # transformers has none
        lines.append(f'AutoModel.from_pretrained("{exported.out}") (transformers)')
    if exported.kind not in ALLOWED and generates:
        lines.append(f"danlu evaluate {exported.out} --data FILE (what the fewer bits cost)")
    return lines
