"""Every family pretrained from scratch on English and on Chinese, for the same time: the curves in docs/experiments.md.

python -m bench.pretrain [BUDGET]     BUDGET of each run, 120s by default

English: the Wikipedia leads. Chinese: the manual pages and a part of the poetry. Each family has its own kind of tokenizer of 8,192
tokens. What is printed at the end is a Markdown table: the loss on the way (mean of the steps around a quarter, a half and three quarters
of the run), and what was held out.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import danlu
from danlu.base.fetching import path_of
from danlu.base.run import Run

STARTS = {"gpt/tiny": "bpe", "bert/tiny": "wordpiece", "seq2seq/tiny": "unigram", "rnn/lstm-tiny": "bpe"}
POEMS = ("quantangshi/poet.song.*0000.json", "quantangshi/poet.tang.*000.json", "songci/ci.song.*000.json")


def sources(language: str) -> list[str]:
    """What is read: catalog names, and files of poems of a few megabytes together."""
    if language == "English":
        return ["wikipedia-leads"]
    poetry = Path(path_of("chinese-poetry"))
    return ["manpages-zh", *(str(file) for pattern in POEMS for file in sorted(poetry.glob(pattern)))]


def curve(run: Run) -> list[float]:
    """Training loss around a quarter, a half and three quarters of the run, each the mean of twenty steps."""
    losses = [row["loss_nats"] for row in run.metrics() if "loss_nats" in row and "kind" not in row]
    return [sum(losses[at : at + 20]) / len(losses[at : at + 20]) for at in (len(losses) * share // 4 for share in (1, 2, 3))]


def main() -> None:
    """Print the table, a row a run."""
    budget = sys.argv[1] if len(sys.argv) > 1 else "120s"
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for language in ("English", "Chinese"):
            for start, kind in STARTS.items():
                text = Path(folder) / f"{language}-{kind}"
                danlu.prepare(*sources(language), out=text, tokenizer_kind=kind, vocabulary_size=8192)
                made = danlu.train(start, data=str(text), budget=budget, runs=Path(folder), name=f"{language}-{start.replace('/', '-')}")
                way = ", ".join(f"{loss:.2f}" for loss in curve(Run(Path(made.run))))
                bits = f" ({made.val_bits_per_byte:.3f} bits per byte)" if made.val_bits_per_byte is not None else ""
                speed = f"{made.steps:,} | {made.train_tokens_per_second:,.0f}"
                rows.append(f"| {start} | {language} | {speed} | {way} | {made.val_loss_nats:.3f}{bits} |")
                print(rows[-1], file=sys.stderr, flush=True)
    print("| size | text | steps | tokens/s | loss on the way | held out |\n|---|---|---|---|---|---|")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
