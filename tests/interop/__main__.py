"""Does llama.cpp read what Danlu writes as Danlu means it? One line a file; some minutes.

make interop, or: python -m tests.interop PYTHON_WITH_LLAMA_CPP
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch import Tensor

import danlu
from danlu.base.errors import CheckpointError
from danlu.inputs.conversation import end_ids
from danlu.inputs.tokenizer import Tokenizer
from danlu.inputs.vocabulary_training import train_bpe
from danlu.models.base import Inputs
from danlu.models.gguf import FILE_TYPES
from danlu.models.loading import Loaded, load_model, save_gguf

from ..models.shapes import distance, make_foreign, own_logits
from .texts import OTHERWISE, TEXTS

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [str(ROOT / name) for name in ("README.md", "README.zh-CN.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs")]
TINY = (
    "llama-grouped", "llama-untied", "llama-one-head-for-all", "llama-wide-heads", "llama-attention-bias", "llama-all-bias",
    "llama-scaled-linear", "llama-scaled-as-llama3", "llama-slow-turns", "llama-odd-sizes", "qwen2", "qwen2-untied", "qwen3",
    "qwen3-untied", "qwen3-bias-untied", "gpt2", "gpt2-untied", "gpt2-one-of-all",
)  # fmt: skip
CHANGED: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3-untied": ("qwen3", {"tie_word_embeddings": False}),
    "gpt2-untied": ("gpt2", {"tie_word_embeddings": False}),
}
REFUSED = ("tiny-llama-scaled-as-llama3", "tiny-qwen3-bias-untied")  # what GGUF, as llama.cpp reads it, cannot say
PROMPT = "The city of"
NEW_TOKENS, LOGIT_TOKENS = 40, 48
ALLOWED = {"F32": 1e-4, "F16": 1e-2}  # difference of logits and vectors, as a share of the largest
ALLOWED_OF_GELU = 2e-3  # even in F32, for llama.cpp looks GELU up in a table of half precision


@dataclass(frozen=True, kw_only=True)
class Greedy:
    """How many tokens are equal from the first on; and by how much the first other one is less likely, as a share of the largest logit."""

    equal: int
    of: int
    gap: float

    def __str__(self) -> str:
        return f"{self.equal:2}/{self.of:2}" + (f" (then {self.gap:.1e} apart)" if self.equal < self.of else "")


@dataclass(frozen=True, kw_only=True)
class Row:
    """What came of one file."""

    model: str
    kind: str
    refused: str = ""
    otherwise: tuple[str, ...] = ()  # texts that llama.cpp cuts into other tokens
    greedy: Greedy | None = None
    difference: float = 0.0
    is_good: bool = True

    def __str__(self) -> str:
        if self.refused:
            told = self.refused
        else:
            texts = f"{len(TEXTS) - len(self.otherwise)}/{len(TEXTS)}"
            told = f"tokens {texts}  difference {self.difference:.1e}  greedy {self.greedy or '-'}"
        return f"{self.model:28} {self.kind:5} {told}{'' if self.is_good else '  <- wrong'}"


def compare(name: str, loaded: Loaded, kind: str, python: str, folder: Path) -> Row:
    """Write a model as GGUF, and ask Danlu and llama.cpp the same of the file.

    Good is: the same tokens and chat template; near answers; and the same greedy text, or another only from where two tokens are
    nearer to each other than the answers are, for llama.cpp rounds what goes into a product of matrices too.
    """
    file = folder / f"{name}-{kind}.gguf"
    try:
        save_gguf(loaded.module, loaded.family, loaded.tokenizer, file, kind)
    except CheckpointError as error:
        return Row(model=name, kind=kind, refused=f"not written: {error}", is_good=name in REFUSED)
    ours = load_model(str(file))
    tokenizer, generates = ours.tokenizer, ours.family.memory != "none"
    assert tokenizer is not None
    ids = [id for text in TEXTS for id in tokenizer.encode(text)][: min(LOGIT_TOKENS, ours.config.context_length)]
    prompt, ends = tokenizer.encode(PROMPT), sorted(end_ids(tokenizer))
    asked = {"file": str(file), "texts": TEXTS, "vectors": not generates, "answers": str(file.with_suffix(".npy"))}
    asked |= {"ids": ids, "prompt": prompt, "new_tokens": min(NEW_TOKENS, ours.config.context_length - len(prompt)), "ends": ends}
    runner = [python, str(Path(__file__).with_name("llama.py"))]
    done = subprocess.run(runner, input=json.dumps(asked), capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        reason = f"llama.cpp ended with {done.returncode}: {_reason(done.stderr)}"
        return Row(model=name, kind=kind, refused=reason, is_good=False)
    told, answers = json.loads(done.stdout), torch.from_numpy(np.load(file.with_suffix(".npy")))
    otherwise = tuple(
        text
        for text, plain, framed in zip(TEXTS, told["plain"], told["framed"], strict=True)
        if plain != tokenizer.encode(text) or framed != tokenizer.encode_model_input(text).ids.tolist()
    )
    if generates:
        difference = distance(answers, own_logits(ours.module, torch.tensor([ids]))[0])
        greedy = _greedy(file, ours.module, prompt, told["greedy"], ends)
    else:
        difference, greedy = distance(_unit(answers), _unit(_means(ours.module, told["framed"]))), None
    allowed = ALLOWED.get(kind, 1.0)
    near = difference < (max(allowed, ALLOWED_OF_GELU) if ours.config.feedforward.activation.startswith("gelu") else allowed)
    same = greedy is None or greedy.equal == greedy.of or greedy.gap < 2 * difference
    good = near and same and told["template"] == tokenizer.chat_template and set(otherwise) <= OTHERWISE.get(ours.family.name, set())
    return Row(model=name, kind=kind, otherwise=otherwise, greedy=greedy, difference=difference, is_good=good)


def _greedy(file: Path, module: Any, prompt: list[int], theirs: list[int], ends: list[int]) -> Greedy:
    with danlu.load(str(file)) as model:
        answer = model.generate(prompt, max_tokens=NEW_TOKENS, temperature=0).choices[0]
    ours = [*answer.token_ids, *(theirs[-1:] if answer.finish_reason == "stop" and theirs[-1] in ends else [])]
    equal = next((i for i, (a, b) in enumerate(zip(ours, theirs, strict=False)) if a != b), min(len(ours), len(theirs)))
    if ours == theirs:
        return Greedy(equal=equal, of=equal, gap=0.0)
    logits = own_logits(module, torch.tensor([prompt + theirs[:equal]]))[0, -1]
    return Greedy(equal=equal, of=max(len(ours), len(theirs)), gap=float((logits.max() - logits[theirs[equal]]) / logits.abs().max()))


@torch.inference_mode()
def _means(module: Any, texts: list[list[int]]) -> Tensor:
    return torch.stack([module(Inputs(tokens=torch.tensor([ids])))[0].mean(0) for ids in texts])


def _unit(vectors: Tensor) -> Tensor:
    return vectors / vectors.norm(dim=1, keepdim=True)


def _reason(log: str) -> str:
    """The line of llama.cpp's log that says what is wrong."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    return next((line for line in lines if "error" in line.lower() or "assert" in line.lower()), lines[-1] if lines else "it said nothing")


def models(folder: Path) -> Iterator[tuple[str, Loaded, tuple[str, ...]]]:
    """Each model's name, itself, and the kinds of file to write of it."""
    for name in ("smollm2-135m-instruct", "minilm-l6"):
        yield name, load_model(name), tuple(FILE_TYPES)
    danlu.prepare(*DOCUMENTS, out=folder / "text", vocabulary_size=1500, workers=1)
    run = danlu.train("gpt/nano", data=str(folder / "text"), runs=folder, name="nano", steps=100, threads=2).run
    yield "trained-here", load_model(run), tuple(FILE_TYPES)
    tokenizer = train_bpe(TEXTS * 4, 600)
    for name in TINY:
        yield f"tiny-{name}", _tiny(name, tokenizer, folder / name), ("F32", "F16")


def _tiny(name: str, tokenizer: Tokenizer, folder: Path) -> Loaded:
    """A random model with a real tokenizer and a few ids more than that has."""
    shape, changes = CHANGED.get(name, (name, {}))
    make_foreign(shape, vocab_size=tokenizer.vocabulary_size + 3, **changes).save_pretrained(folder)
    tokenizer.save(folder)
    return load_model(str(folder))


def main() -> int:
    """Print a row a file. Returns: 0 if all agree."""
    (python,) = sys.argv[1:]
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    good = True
    with tempfile.TemporaryDirectory(prefix="danlu-interop-") as folder:
        for name, loaded, kinds in models(Path(folder)):
            for kind in kinds:
                row = compare(name, loaded, kind, python, Path(folder))
                print(row, flush=True)
                good = good and row.is_good
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
