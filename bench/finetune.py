"""Fine-tuning MiniLM on movie reviews beside transformers' Trainer, the same examples, epochs, batch and rate.

python -m bench.finetune TRAIN.jsonl TEST.jsonl [EPOCHS]     rows of text and label (a whole number)

The Trainer pads to the longest of a batch; Danlu packs. Both cut at 128 tokens. Danlu runs in float32, as the Trainer does, and then in
the numbers that it would choose here. Times are those of training alone.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments

import danlu
from danlu.base.fetching import path_of
from danlu.base.run import Run

BATCH, RATE, LENGTH = 32, 5e-5, 128


def rows(file: str) -> list[dict[str, object]]:
    """The examples of a file."""
    return [json.loads(line) for line in Path(file).read_text("utf-8").splitlines()]


def theirs(train: str, test: str, epochs: int, folder: str) -> dict[str, float]:
    """The Trainer's examples a second, and accuracy."""
    place = path_of("minilm-l6")
    tokenizer = AutoTokenizer.from_pretrained(place)
    model = AutoModelForSequenceClassification.from_pretrained(place, num_labels=2)

    def encoded(file: str) -> list[dict[str, object]]:
        return [{**tokenizer(row["text"], truncation=True, max_length=LENGTH), "label": row["label"]} for row in rows(file)]

    arguments = TrainingArguments(
        output_dir=folder, per_device_train_batch_size=BATCH, report_to=[], learning_rate=RATE, num_train_epochs=epochs, save_strategy="no",
        use_cpu=True, seed=0, disable_tqdm=True,
    )  # fmt: skip
    data = encoded(train)
    trainer = Trainer(
        model=model, args=arguments, train_dataset=data, processing_class=tokenizer, data_collator=DataCollatorWithPadding(tokenizer)
    )  # fmt: skip
    began = time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - began
    found = trainer.predict(encoded(test)).predictions.argmax(-1)
    accuracy = float(np.mean(found == [row["label"] for row in rows(test)]))
    return {"examples_per_second": round(epochs * len(data) / seconds, 1), "accuracy": round(accuracy, 4)}


def danlus(train: str, test: str, epochs: int, folder: str, precision: str) -> dict[str, float | str]:
    """Danlu's examples a second in its steps, and accuracy."""
    made = danlu.train(
        "minilm-l6", task="classify", data=train, epochs=epochs, batch_rows=BATCH, rate=RATE, truncate=True, context_length=LENGTH,
        precision=precision, runs=folder, name=f"reviews-{precision}",
    )  # fmt: skip
    seconds = [row for row in Run(Path(made.run)).metrics() if "kind" not in row][-1]["wall_seconds"]
    steps, right = made.steps, 0
    with danlu.load(made.run) as model, torch.inference_mode():
        names = model.config.head.names
        for row in rows(test):
            ids = model.tokenizer.encode_model_input(str(row["text"]), max_tokens=LENGTH).ids
            right += names[int(model.logits(torch.tensor(ids)[None]).argmax())] == str(row["label"])
    speed = round(steps * BATCH / seconds, 1)
    return {"examples_per_second": speed, "accuracy": round(right / len(rows(test)), 4), "precision": made.precision}


def main() -> None:
    """Print one JSON object a run."""
    train, test = sys.argv[1:3]
    epochs = int(sys.argv[3]) if len(sys.argv) > 3 else 2
    with tempfile.TemporaryDirectory() as folder:
        for precision in ("float32", "auto"):
            print(json.dumps({"what": f"danlu, {precision}"} | danlus(train, test, epochs, folder, precision)), flush=True)
        print(json.dumps({"what": "Trainer"} | theirs(train, test, epochs, folder)), flush=True)


if __name__ == "__main__":
    main()
