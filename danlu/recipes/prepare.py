"""`danlu prepare`: raw files -> cleaned, deduplicated, split, tokenized."""

from __future__ import annotations

import json as encoder
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from danlu.base.errors import ConfigError
from danlu.data.preparation import Plan, Preparation, run

Several = Parameter(consume_multiple=True)


def prepare(
    *sources: str,
    out: str | Path,
    tokenizer: str | None = None,
    tokenizer_kind: Literal["bpe", "wordpiece", "unigram"] = "bpe",
    vocabulary_size: int | None = None,
    validation: float | None = None,
    test: float | None = None,
    near_duplicates: float | Literal["off"] = 0.8,
    keep_duplicates: bool = False,
    filters: Annotated[tuple[str, ...], Several] = (),
    languages: Annotated[tuple[str, ...], Several] = (),
    field: str | None = None,
    max_bad: float = 0.1,
    workers: int | None = None,
    seed: int = 0,
    json: bool = False,
) -> Preparation:
    """Prepare text for training: cleaned, without duplicates, split by document, tokenized, with a manifest of what became of it.

    Interrupted, the same command goes on where it stopped; finished, it does nothing. The same input gives the same bytes.

    Parameters
    ----------
    sources
        Files (.txt .md .rst .html, manual pages, .jsonl .json .csv .tsv .parquet, .gz or .zst of these), folders of them, catalog names,
        or hf:owner/name for a data set of the hub.
    out
        The folder to make; new, or one that the same command has begun.
    tokenizer
        An existing tokenizer: a catalog name, a folder, a tokenizer.json, a .gguf file or hf:owner/name. Without it one is trained.
    tokenizer_kind
        What to train on the training split: byte-level BPE (GPT), WordPiece (BERT; rare characters are lost) or Unigram (T5).
    vocabulary_size
        Train a tokenizer of so many tokens; by default 2048 to 32768, by the amount of text.
    validation
        Share held out for validation: 0.05 of the documents; with fewer than 20 documents, the last 0.1 of the bytes.
    test
        Share held out for a test: 0.05 of the documents; none with fewer than 20 documents.
    near_duplicates
        How alike (Jaccard similarity of five-word runs) two documents must be for the later one to go; "off" keeps them.
    keep_duplicates
        Keep exact and near duplicates.
    filters
        Filters that drop documents: gopher-quality, gopher-repetition, fineweb-quality. None by default.
    languages
        Keep only documents in these languages, such as en zh. All by default.
    field
        The column or key that holds the text, where it is none of the known ones.
    max_bad
        Stop when more than this share of the rows cannot be used; below it they are listed in OUT/bad_rows.jsonl.
    workers
        Worker processes; by default one a core.
    seed
        Another seed gives another split.
    json
        Print one JSON object as the last line.
    """
    if near_duplicates == "off" or keep_duplicates:
        threshold = None
    else:
        threshold = float(near_duplicates)
    plan = Plan(
        sources=tuple(str(source) for source in sources), out=Path(out), tokenizer=tokenizer, tokenizer_kind=tokenizer_kind,
        vocabulary_size=vocabulary_size, validation=validation, test=test, near_duplicates=threshold, keep_duplicates=keep_duplicates,
        filters=tuple(filters), languages=tuple(languages), field=field, max_bad=max_bad, workers=workers, seed=seed,
    )  # fmt: skip
    try:
        done = run(plan)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"what was done is kept in {plan.out}: run the same command again to go on") from None
    except PermissionError as error:
        raise ConfigError(f"{error.filename}: {error.strerror}; check the permissions") from error
    _show(done)
    if json:
        told = {name: value for name, value in asdict(done).items() if name != "inputs"}  # a folder may hold a million of them
        print(encoder.dumps({**told, "out": str(done.out), "files": len(done.inputs)}, ensure_ascii=False))
    return done


def _show(done: Preparation) -> None:
    """The account on stderr: every document that came is in one line of it."""
    if done.already_prepared:
        print(f"{done.out} is prepared already from the same input with the same parameters: nothing to do", file=sys.stderr)
    counts: dict[str, Any] = done.counts
    print(f"{counts['documents_in']:>12,} documents in {len(done.inputs):,} files", file=sys.stderr)
    for reason, count in counts["dropped"].items():
        if count:
            more = f" (listed in {done.out / 'bad_rows.jsonl'})" if reason == "bad" else ""
            print(f"{-count:>12,} {reason.replace('_', ' ')}{more}", file=sys.stderr)
    print(f"{counts['documents_kept']:>12,} kept", file=sys.stderr)
    for name, split in done.splits.items():
        print(f"{split['documents']:>12,} {name}: {split['bytes']:,} bytes, {split['tokens']:,} tokens", file=sys.stderr)
    if not done.splits["validation"]["documents"]:
        print("no document fell into validation: for one, raise --validation or change --seed, with another --out", file=sys.stderr)
    if not done.already_prepared:
        rate = done.bytes_cleaned / max(done.seconds, 1e-9) / 1e6
        print(f"{done.out}: {done.seconds:.1f} s, {rate:.1f} MB/s; vocabulary {done.vocabulary_size:,}", file=sys.stderr)
