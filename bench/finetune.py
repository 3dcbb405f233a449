"""Fine-tuning MiniLM on movie reviews beside transformers' Trainer: the same rows, epochs, batch and length, seed by seed in turn.

python -m bench.finetune [SEEDS [ROWS]]     3 seeds and 6,000 rows unless given; 2,000 rows measure

Both cut at 128 tokens; the Trainer has the rate of shared practice, 5e-5, Danlu its own default. Danlu trains in the numbers that it
chooses here, and for the first seed in float32 too, as the Trainer does. Both predict in float32. Times are those of training alone and
of predicting alone, tokenizing included for Danlu's predictions.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding, Trainer, TrainingArguments

import danlu
from danlu.base.fetching import path_of
from danlu.base.run import Run
from danlu.data.examples import ClassifyExample
from danlu.tasks.loading import find_task
from danlu.tasks.parts import read_part

BATCH, RATE, LENGTH, EPOCHS, TESTED = 32, 5e-5, 128, 2, 2000
LABELS = ("negative", "positive")


def rows(part: Any, count: int) -> list[dict[str, str]]:
    """The first rows of the task's part, which come in the order of a hash."""
    records = read_part(find_task("sentiment-en"), (), part).records[:count]
    return [{"text": record.text, "label": record.label} for record in records if isinstance(record, ClassifyExample)]


def theirs(train: list[dict[str, str]], test: list[dict[str, str]], seed: int, folder: str) -> dict[str, float]:
    """The Trainer's examples a second in training and predicting, and accuracy."""
    place = path_of("minilm-l6")
    tokenizer = AutoTokenizer.from_pretrained(place)
    model = AutoModelForSequenceClassification.from_pretrained(place, num_labels=2)

    def encoded(part: list[dict[str, str]]) -> list[dict[str, object]]:
        return [{**tokenizer(row["text"], truncation=True, max_length=LENGTH), "label": LABELS.index(row["label"])} for row in part]

    arguments = TrainingArguments(
        output_dir=folder, per_device_train_batch_size=BATCH, report_to=[], learning_rate=RATE, num_train_epochs=EPOCHS, save_strategy="no",
        use_cpu=True, seed=seed, disable_tqdm=True,
    )  # fmt: skip
    data, held = encoded(train), encoded(test)
    trainer = Trainer(
        model=model, args=arguments, train_dataset=data, processing_class=tokenizer, data_collator=DataCollatorWithPadding(tokenizer)
    )  # fmt: skip
    began = time.perf_counter()
    trainer.train()
    trained = time.perf_counter()
    found = trainer.predict(held).predictions.argmax(-1).tolist()
    predicted = time.perf_counter()
    right = sum(answer == row["label"] for answer, row in zip(found, held, strict=True))
    return told(len(train), trained - began, len(test) / (predicted - trained), right / len(test))


def ours(train: Path, test: Path, count: int, seed: int, folder: str, precision: str) -> dict[str, float]:
    """Danlu's."""
    made = danlu.train(
        "minilm-l6", task="classify", data=train, epochs=EPOCHS, batch_rows=BATCH, truncate=True, context_length=LENGTH, validation=0,
        precision=precision, seed=seed, runs=folder, name=f"{precision}-{seed}",
    )  # fmt: skip
    seconds = [row for row in Run(Path(made.run)).metrics() if "kind" not in row][-1]["wall_seconds"]
    found = danlu.evaluate(made.run, data=test, truncate=True)
    return told(count, seconds, found.examples_per_second, found.figures["accuracy"].value)


def told(count: int, seconds: float, predicting: float, accuracy: float) -> dict[str, float]:
    """What is printed of one training."""
    speed = round(EPOCHS * count / seconds, 1)
    return {"train_seconds": round(seconds, 1), "train_per_second": speed, "predict_per_second": round(predicting, 1), "accuracy": accuracy}


def main() -> None:
    """Print one JSON object a training, then the means."""
    seeds, count = (int(value) for value in (sys.argv[1:] + ["3", "6000"][len(sys.argv) - 1 :]))
    train, test = rows("train", count), rows("test", TESTED)
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        files = [Path(folder, name) for name in ("train.jsonl", "test.jsonl")]
        for file, part in zip(files, (train, test), strict=True):
            file.write_text("\n".join(map(json.dumps, part)))

        def note(what: str, seed: int, one: dict[str, float]) -> None:
            found.setdefault(what, []).append(one)
            print(json.dumps({"what": what, "seed": seed} | one), flush=True)

        for seed in range(seeds):
            note("danlu", seed, ours(files[0], files[1], len(train), seed, folder, "auto"))
            note("Trainer", seed, theirs(train, test, seed, folder))
            if seed == 0:
                note("danlu, float32", seed, ours(files[0], files[1], len(train), seed, folder, "float32"))
    for what, each in found.items():
        print(json.dumps({"what": what, "seeds": len(each)} | means(each)), flush=True)


def means(each: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each figure, and the standard error of the accuracy between seeds."""
    error = statistics.stdev(one["accuracy"] for one in each) / len(each) ** 0.5 if len(each) > 1 else 0.0
    return {name: round(statistics.fmean(one[name] for one in each), 4) for name in each[0]} | {"accuracy_error": round(error, 4)}


if __name__ == "__main__":
    main()
