"""Masked-word pretraining at MiniLM's shape (30,522 words): Danlu and transformers' BertForMaskedLM with its collator, taking turns.

python -m bench.masked [ROUNDS]

Both read the same ids of the Wikipedia leads by the same tokenizer, joined and cut into rows of 128, 16 rows a step, with fused AdamW:
transformers as its own example of masked pretraining does it, in float32 with the dropout of its configuration; Danlu in float32, and in
the precision that it chooses on this machine. Prints one JSON object: median tokens a second of each, and the ratios.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from transformers import AutoTokenizer, BertConfig, BertForMaskedLM, DataCollatorForLanguageModeling

from danlu.base.device import choose_precision, computing_in
from danlu.base.fetching import path_of
from danlu.data.batches import Batches
from danlu.data.masking import Masking
from danlu.inputs.tokenizer import Tokenizer
from danlu.models.base import Head
from danlu.models.bert import Bert
from danlu.models.loading import load_model
from danlu.training.config import TrainingConfig
from danlu.training.objective import MaskedWords
from danlu.training.optimizer import make_optimizers

ROWS, LENGTH, STEPS = 16, 128, 4


def danlus(tokenizer: Tokenizer, ids: np.ndarray, precision: str) -> Callable[[int], None]:
    """A step of Danlu's: all that the training loop does to weights."""
    shape = load_model("minilm-l6").config
    module = Bert(replace(shape, head=Head(kind="words"), pooler=False)).train()
    assert tokenizer.cls_id is not None and tokenizer.sep_id is not None
    objective = MaskedWords(
        batches=Batches([ids], LENGTH - 2, ROWS, 0), masking=Masking.of(tokenizer, shape.vocabulary_size),
        begin_id=tokenizer.cls_id, end_id=tokenizer.sep_id, next_sentence=False, seed=0,
    )  # fmt: skip
    config = TrainingConfig(rate=1e-4, batch_rows=ROWS, context_length=LENGTH)
    optimizers = make_optimizers(module, config)

    def step(number: int) -> None:
        with computing_in(precision, torch.device("cpu")):  # type: ignore[arg-type]
            found = objective.loss(module, objective.batch(number))
        (found.total / found.count).backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), config.clip)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return step


def theirs(ids: np.ndarray) -> Callable[[int], None]:
    """A step of transformers'."""
    folder = path_of("minilm-l6")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    module = BertForMaskedLM(BertConfig.from_pretrained(folder)).train()
    collate = DataCollatorForLanguageModeling(tokenizer)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4, fused=True)
    rows = [[101, *ids[start : start + LENGTH - 2].tolist(), 102] for start in range(0, len(ids) - LENGTH, LENGTH - 2)]

    def step(number: int) -> None:
        chosen = [{"input_ids": rows[(number * ROWS + row) % len(rows)]} for row in range(ROWS)]
        module(**collate(chosen)).loss.backward()
        torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def main() -> None:
    """Take turns and print the medians."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 4
    leads = json.loads(path_of("wikipedia-leads").read_text(encoding="utf-8"))
    texts = [lead["extract"] for lead in (leads.values() if isinstance(leads, dict) else leads) if lead.get("extract")][:3000]
    tokenizer = Tokenizer.load(path_of("minilm-l6"))
    ids = np.concatenate(tokenizer.encode_batch(texts)).astype(np.int64)
    chosen, _ = choose_precision("auto", torch.device("cpu"))
    sides = {
        "transformers": theirs(ids),
        "danlu, float32": danlus(tokenizer, ids, "float32"),
        f"danlu, chosen: {chosen}": danlus(tokenizer, ids, chosen),
    }
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for round_ in range(-1, rounds):  # one round to warm up
        for name, step in sides.items():
            began = time.perf_counter()
            for number in range(STEPS):
                step(max(round_, 0) * STEPS + number)
            if round_ >= 0:
                speeds[name].append(STEPS * ROWS * LENGTH / (time.perf_counter() - began))
    medians = {name: round(statistics.median(found), 1) for name, found in speeds.items()}
    ratios = {
        name: round(statistics.median(a / b for a, b in zip(found, speeds["transformers"], strict=True)), 2)
        for name, found in speeds.items()
    }
    print(json.dumps({"what": "masked words, tokens a second", "medians": medians, "ratios": ratios, "rounds": rounds}))


if __name__ == "__main__":
    main()
