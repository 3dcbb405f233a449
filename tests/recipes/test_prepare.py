from __future__ import annotations

import gzip
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from tokenizers import Tokenizer as RawTokenizer

import danlu
from danlu.base.errors import ConfigError, DataError
from danlu.data.preparation import Preparation
from danlu.data.prepared import open_prepared
from danlu.inputs.tokenizer import Tokenizer
from danlu.inputs.vocabulary_training import TRAINERS, train_bpe
from danlu.recipes.prepare import prepare

WORDS = ["river", "stone", "light", "winter", "garden", "letter", "morning", "window", "silver", "forest", "bridge", "music", "paper"]
CHARACTERS = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜"


def _text(seed: int, words: int = 120) -> str:
    chance = random.Random(seed)
    if seed % 3 == 0:
        return "".join(chance.choice(CHARACTERS) for _ in range(words)) + "。"
    return " ".join(chance.choice(WORDS) + str(chance.randrange(50)) for _ in range(words)) + "."


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_bpe((_text(seed) for seed in range(50)), vocabulary_size=400).save(folder)
    return folder


def _write_rows(path: Path, texts: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8")
    return path


def _run(source: Path | list[Path], out: Path, tokenizer: Path | None = None, **options: Any) -> Preparation:
    sources = source if isinstance(source, list) else [source]
    options = {"workers": 1, "tokenizer": str(tokenizer) if tokenizer else None} | options
    return prepare(*(str(path) for path in sources), out=out, **options)


def _documents(out: Path, split: str) -> list[list[int]]:
    prepared = open_prepared(out)
    found = []
    for tokens, rows in zip(prepared.split(split), prepared.documents(split), strict=True):
        ends = [*rows[1:, 0].tolist(), len(tokens)]
        found += [tokens[begin:end].tolist() for begin, end in zip(rows[:, 0].tolist(), ends, strict=True)]
    return found


def _texts(out: Path, split: str) -> list[str]:
    tokenizer = Tokenizer.load(open_prepared(out).tokenizer_folder)
    documents = _documents(out, split)
    assert all(document[-1] == tokenizer.end_of_text_id for document in documents)
    return [tokenizer.decode(document[:-1]) for document in documents]


def _all_texts(out: Path) -> list[str]:
    return [text for split in ("train", "validation", "test") for text in _texts(out, split)]


def _bytes(out: Path) -> dict[str, str]:
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(out.rglob("*")) if path.is_file()}


def test_text_goes_in_and_comes_out(tmp_path: Path, tokenizer: Path) -> None:
    texts = [_text(seed) for seed in range(200)]
    done = _run(_write_rows(tmp_path / "a.jsonl", texts), tmp_path / "out", tokenizer)
    assert sorted(_all_texts(tmp_path / "out")) == sorted(texts)
    assert done.counts["documents_in"] == done.counts["documents_kept"] == 200
    prepared = open_prepared(tmp_path / "out")
    for split in ("train", "validation", "test"):
        assert prepared.bytes(split) == sum(len(text.encode()) for text in _texts(tmp_path / "out", split))
        assert prepared.tokens(split) == sum(len(document) for document in _documents(tmp_path / "out", split))
        assert 0 < len(_documents(tmp_path / "out", split)) == done.splits[split]["documents"]


def test_ids_are_those_of_the_tokenizers_library(tmp_path: Path, tokenizer: Path) -> None:
    texts = [_text(seed) + " <|endoftext|> naïve 🙂\n\n\tx  y" for seed in range(60)]
    _run(_write_rows(tmp_path / "a.jsonl", texts), tmp_path / "out", tokenizer, validation=0.0, test=0.0)
    raw = RawTokenizer.from_file(str(tokenizer / "tokenizer.json"))
    raw.encode_special_tokens = True  # text is data
    expected = [raw.encode(text).ids for text in texts]
    assert [document[:-1] for document in _documents(tmp_path / "out", "train")] == expected


def test_a_tokenizer_is_trained_on_the_training_split_alone(tmp_path: Path) -> None:
    texts = [_text(seed) for seed in range(100)]
    done = _run(_write_rows(tmp_path / "a.jsonl", texts), tmp_path / "out", vocabulary_size=500)
    assert done.vocabulary_size == 500
    learned = train_bpe(_texts(tmp_path / "out", "train"), vocabulary_size=500)
    assert learned.fingerprint == Tokenizer.load(tmp_path / "out" / "tokenizer").fingerprint
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["tokenizer"]["trained"]


@pytest.mark.parametrize("kind", ["bpe", "wordpiece", "unigram"])
def test_the_kind_of_the_tokenizer_is_chosen_and_part_of_the_plan(tmp_path: Path, kind: str) -> None:
    texts = [_text(seed) + " naïve 🙂\n\n  x </s> [SEP]" for seed in range(100)]
    path = _write_rows(tmp_path / "a.jsonl", texts)
    _run(path, tmp_path / "out", vocabulary_size=700, tokenizer_kind=kind)
    learned = Tokenizer.load(open_prepared(tmp_path / "out").tokenizer_folder)
    separator = learned.sep_id if kind == "wordpiece" else learned.end_of_text_id
    assert open_prepared(tmp_path / "out").separator_id == separator
    documents = _documents(tmp_path / "out", "train")
    for document in documents:
        assert document[-1] == separator and not {separator, learned.cls_id} & set(document[:-1])
    if kind != "wordpiece":
        assert sorted(_all_texts(tmp_path / "out")) == sorted(texts)
    told = [learned.decode(document) for document in documents]
    assert learned.fingerprint == TRAINERS[kind]([text for text in texts if learned.decode(learned.encode(text)) in told], 700).fingerprint
    assert _run(path, tmp_path / "out", vocabulary_size=700, tokenizer_kind=kind).already_prepared
    other = "unigram" if kind == "bpe" else "bpe"
    with pytest.raises(ConfigError, match=f"tokenizer_kind={kind}"):
        _run(path, tmp_path / "out", vocabulary_size=700, tokenizer_kind=other)


def test_every_document_is_accounted_for(tmp_path: Path, tokenizer: Path) -> None:
    texts = [_text(seed) for seed in range(60)]
    near = texts[1].replace(texts[1].split()[60], "another")
    chinese = texts[0][:60] + "变" + texts[0][61:]
    folder = tmp_path / "in"
    folder.mkdir()
    rows = [*texts, texts[5], texts[7] + "\r\n", near, chinese, "  ", "\x00\x01"]
    lines = [json.dumps({"text": text}) for text in rows]
    lines += ["not json", json.dumps({"body": "x", "id": 1}), json.dumps({"text": 5})]
    (folder / "rows.jsonl").write_text("\n".join(lines) + "\n\n")
    (folder / "binary.txt").write_bytes(b"\x7fELF\0\0\0\x01")
    (folder / "empty.md").write_bytes(b"")
    (folder / "chinese.txt").write_bytes("床前明月光，疑是地上霜。举头望明月，低头思故乡。".encode("gb18030"))
    (folder / "page.html").write_text("<html><body><p>A page about <b>nothing</b> much</p></body></html>")
    (folder / "packed.rst.gz").write_bytes(gzip.compress(b"Title\n=====\n\npacked text of a few words"))
    (folder / "cut.txt.gz").write_bytes(gzip.compress(b"never whole" * 100)[:30])
    done = _run(folder, tmp_path / "out", tokenizer, max_bad=0.5)
    counts = done.counts
    assert counts["dropped"] == {"bad": 5 + 1, "empty": 2, "exact_duplicates": 2, "near_duplicates": 2}
    assert counts["documents_in"] == counts["documents_kept"] + sum(counts["dropped"].values())
    assert counts["documents_kept"] == len(_all_texts(tmp_path / "out")) == 63
    assert counts["mended"]["transcoded"] == 1 and counts["mended"]["markup_removed"] == 1
    assert {"A page about nothing much", "床前明月光，疑是地上霜。举头望明月，低头思故乡。"} <= set(_all_texts(tmp_path / "out"))
    bad = [json.loads(line) for line in (tmp_path / "out" / "bad_rows.jsonl").read_text().splitlines()]
    assert [(row["file"], row["line"]) for row in bad] == [
        ("in/binary.txt", 1), ("in/cut.txt.gz", 1),
        ("in/rows.jsonl", 66), ("in/rows.jsonl", 67), ("in/rows.jsonl", 68), ("in/rows.jsonl", 69),
    ]  # fmt: skip
    assert "NUL" in bad[0]["reason"] and "damaged" in bad[1]["reason"] and "not JSON" in bad[3]["reason"]
    assert "body, id" in bad[4]["reason"]


def test_too_many_bad_rows_stop_the_work_with_their_list(tmp_path: Path, tokenizer: Path) -> None:
    rows = [_text(seed) for seed in range(30)]
    path = _write_rows(tmp_path / "a.jsonl", rows)
    with path.open("a") as file:
        file.write("broken\n" * 10)
    with pytest.raises(DataError, match=r"10 of 40 rows cannot be used, more than --max-bad 0\.1 allows: a\.jsonl:31: not JSON") as caught:
        _run(path, tmp_path / "out", tokenizer)
    assert "\n" not in str(caught.value)
    assert len((tmp_path / "out" / "bad_rows.jsonl").read_text().splitlines()) == 10
    with pytest.raises(DataError, match="not finished"):
        open_prepared(tmp_path / "out")
    assert _run(path, tmp_path / "out", tokenizer, max_bad=0.3).counts["dropped"]["bad"] == 10


def test_the_number_of_workers_changes_no_byte(tmp_path: Path) -> None:
    for number in range(3):
        _write_rows(tmp_path / f"{number}.jsonl", [_text(1000 * number + seed, 700) for seed in range(250)])
    for workers in (1, 2, 3):
        _run([tmp_path / f"{number}.jsonl" for number in range(3)], tmp_path / f"all{workers}", workers=workers, vocabulary_size=400)
    assert _bytes(tmp_path / "all1") == _bytes(tmp_path / "all2") == _bytes(tmp_path / "all3")


def test_the_split_stays_when_data_is_added(tmp_path: Path, tokenizer: Path) -> None:
    texts = [_text(seed) for seed in range(400)]
    _run(_write_rows(tmp_path / "a.jsonl", texts[:200]), tmp_path / "few", tokenizer)
    _run(_write_rows(tmp_path / "a.jsonl", texts[300:] + texts[:300]), tmp_path / "more", tokenizer)
    for split in ("train", "validation", "test"):
        before = set(_texts(tmp_path / "few", split))
        assert before and before <= set(_texts(tmp_path / "more", split))


def test_fewer_than_twenty_documents_are_split_by_bytes(tmp_path: Path, tokenizer: Path) -> None:
    texts = ["\n".join(_text(20 * seed + line, 12) for line in range(20)) for seed in range(5)]
    done = _run(_write_rows(tmp_path / "a.jsonl", texts), tmp_path / "out", tokenizer)
    whole = "".join(texts)
    train, held = "".join(_texts(tmp_path / "out", "train")), "".join(_texts(tmp_path / "out", "validation"))
    assert train + held == whole
    assert 0.07 < len(held.encode()) / len(whole.encode()) <= 0.1
    assert train.endswith("\n")
    assert not done.splits["test"]["documents"]
    _run(tmp_path / "a.jsonl", tmp_path / "tested", tokenizer, test=0.2)
    parts = ["".join(_texts(tmp_path / "tested", split)) for split in ("train", "test", "validation")]
    assert "".join(parts) == whole and all(parts)


def test_one_giant_text_is_one_document(tmp_path: Path, tokenizer: Path) -> None:
    lines = [f"{number} {_text(number, 20)}\n" for number in range(30_000)]
    (tmp_path / "a.txt").write_text("".join(lines), encoding="utf-8")
    _run(tmp_path / "a.txt", tmp_path / "out", tokenizer)
    kept = "".join(_texts(tmp_path / "out", "train") + _texts(tmp_path / "out", "validation"))
    assert kept.replace("\n", "") == "".join(lines).replace("\n", "")
    share = open_prepared(tmp_path / "out").bytes("validation") / sum(len(line.encode()) for line in lines)
    assert share == pytest.approx(0.1, abs=0.001)


def test_one_giant_row_is_cut_like_a_giant_file(tmp_path: Path, tokenizer: Path) -> None:
    giant = " ".join(f"{number} {_text(number, 20)}" for number in range(10_001, 22_000))
    done = _run(_write_rows(tmp_path / "a.jsonl", [giant, *(_text(seed) for seed in range(30))]), tmp_path / "out", tokenizer)
    parts = -(-len(giant.encode()) // (1 << 20))
    assert done.counts["documents_in"] == done.counts["documents_kept"] == 30 + parts
    texts = [text for text in _all_texts(tmp_path / "out") if len(text) > 10_000]
    assert "".join(texts) == giant
    assert sum(any(len(text) > 10_000 for text in _texts(tmp_path / "out", split)) for split in ("train", "validation", "test")) == 1


def test_duplicates_can_be_kept(tmp_path: Path, tokenizer: Path) -> None:
    texts = [_text(seed) for seed in range(30)]
    path = _write_rows(tmp_path / "a.jsonl", [*texts, texts[1], texts[2].rsplit(" ", 1)[0]])
    assert _run(path, tmp_path / "both", tokenizer).counts["documents_kept"] == 30
    assert _run(path, tmp_path / "exact", tokenizer, near_duplicates="off").counts["documents_kept"] == 31
    assert _run(path, tmp_path / "all", tokenizer, keep_duplicates=True).counts["documents_kept"] == 32


def test_filters_and_languages_are_counted_by_reason(tmp_path: Path, tokenizer: Path) -> None:
    texts = [_text(seed) for seed in range(30)] + ["Alle glücklichen Familien gleichen einander, und es ist gut so."]
    path = _write_rows(tmp_path / "a.jsonl", texts)
    with pytest.raises(DataError, match=r"no text is left of 31 documents .*gopher_short_doc"):
        _run(path, tmp_path / "none", tokenizer, languages=("de",), filters=("gopher-quality",))
    done = _run(path, tmp_path / "german", tokenizer, languages=("de",))
    assert done.counts["documents_kept"] == 1
    assert sum(count for name, count in done.counts["dropped"].items() if name.startswith("filter: language ")) == 30


def test_a_second_run_does_nothing_and_another_input_is_refused(tmp_path: Path, tokenizer: Path) -> None:
    path = _write_rows(tmp_path / "a.jsonl", [_text(seed) for seed in range(30)])
    first = _run(path, tmp_path / "out", tokenizer)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*")}
    second = _run(path, tmp_path / "out", tokenizer)
    assert second.already_prepared and not first.already_prepared
    assert second.counts == first.counts and second.splits == first.splits
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "out").rglob("*")} == before
    with pytest.raises(ConfigError, match=r"prepared before with other parameters \(seed=0\)"):
        _run(path, tmp_path / "out", tokenizer, seed=1)
    with path.open("a") as file:
        file.write('{"text": "more"}\n')
    with pytest.raises(ConfigError, match="prepared before with other input"):
        _run(path, tmp_path / "out", tokenizer)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"validation": 1.5}, "--validation 1.5 is no share"),
        ({"validation": 0.6, "test": 0.5}, "leave nothing to train on"),
        ({"near_duplicates": 0.0}, "--near-duplicates 0"),
        ({"max_bad": -1.0}, "--max-bad -1"),
        ({"workers": 0}, "--workers 0"),
        ({"filters": ("clever",)}, "unknown filter 'clever'"),
        ({"vocabulary_size": 100}, "--vocabulary-size 100; expected 257"),
        ({"vocabulary_size": 300, "tokenizer_kind": "unigram"}, "--vocabulary-size 300; expected 512"),
        ({"vocabulary_size": 1000, "tokenizer": "x"}, "expected one of the two"),
        ({"tokenizer_kind": "wordpiece", "tokenizer": "x"}, "expected one of the two"),
        ({"tokenizer_kind": "words"}, "--tokenizer-kind words; expected one of bpe, wordpiece, unigram"),
    ],
)
def test_wrong_flags(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _run(_write_rows(tmp_path / "a.jsonl", ["x"]), tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path, tokenizer: Path) -> None:
    path = _write_rows(tmp_path / "a.jsonl", ["x"])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds something else \(thesis\.txt\)"):
        _run(path, tmp_path / "out", tokenizer)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["thesis.txt"]
    with pytest.raises(ConfigError, match="is a file"):
        _run(path, tmp_path / "a.jsonl", tokenizer)


def test_nothing_left_is_an_error_that_says_why(tmp_path: Path, tokenizer: Path) -> None:
    (tmp_path / "a.txt").write_text("  \n")
    with pytest.raises(DataError, match=r"no text is left of 1 documents in 1 files \(1 empty\)"):
        _run(tmp_path / "a.txt", tmp_path / "out", tokenizer)


@pytest.mark.parametrize("damage", ["train-00000.tokens.npy", "validation-00000.documents.npy", "manifest.json"])
def test_a_prepared_folder_that_is_not_whole_is_refused(tmp_path: Path, tokenizer: Path, damage: str) -> None:
    _run(_write_rows(tmp_path / "a.jsonl", [_text(seed) for seed in range(100)]), tmp_path / "out", tokenizer)
    file = tmp_path / "out" / damage
    file.write_bytes(file.read_bytes()[:-7])
    with pytest.raises(DataError, match=f"{damage}.* prepare it again"):
        open_prepared(tmp_path / "out")


def _start(source: Path, out: Path, tokenizer: Path, limit: int | None = None) -> psutil.Popen:
    code = (
        "import resource, signal, sys\n"
        "from danlu.recipes.prepare import prepare\n"
        "source, out, tokenizer, limit = sys.argv[1:]\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "if int(limit): resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))\n"
        "try: prepare(source, out=out, tokenizer=tokenizer, workers=2)\n"
        "except (KeyboardInterrupt, OSError) as error: print(type(error).__name__, error); sys.exit(2)\n"
    )
    root = Path(danlu.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    arguments = [sys.executable, "-c", code, str(source), str(out), str(tokenizer), str(limit or 0)]
    return psutil.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("big")
    return _write_rows(folder / "a.jsonl", [_text(seed, 900) for seed in range(1200)])


@pytest.fixture(scope="module")
def undisturbed(big: Path, tokenizer: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    _run(big, out, tokenizer, workers=2)
    return _bytes(out)


@pytest.mark.parametrize("stage", ["cleaned", "tokens"])
def test_killed_anywhere_it_goes_on_and_gives_the_same_bytes(
    tmp_path: Path, big: Path, tokenizer: Path, undisturbed: dict[str, str], stage: str
) -> None:
    out = tmp_path / "out"
    process = _start(big, out, tokenizer)
    deadline = time.monotonic() + 60
    while not list((out / ".work" / stage).glob("*.npz")) and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (out / "manifest.json").exists(), "it was over before it could be killed"
    finished = {file: file.stat().st_mtime_ns for file in (out / ".work" / stage).glob("[0-9]*.npz")}
    assert finished
    with pytest.raises(DataError, match="not finished"):
        open_prepared(out)
    time.sleep(0.5)  # the workers see their parent gone
    process = _start(big, out, tokenizer)
    kept: set[Path] = set()
    while process.poll() is None:
        kept |= {file for file, changed in finished.items() if file.exists() and file.stat().st_mtime_ns == changed}
        time.sleep(0.01)
    process.communicate()
    assert process.returncode == 0
    assert kept == set(finished)
    assert _bytes(out) == undisturbed


def test_interrupted_it_says_how_to_go_on(tmp_path: Path, big: Path, tokenizer: Path, undisturbed: dict[str, str]) -> None:
    out = tmp_path / "out"
    process = _start(big, out, tokenizer)
    while not list((out / ".work" / "cleaned").glob("*.npz")):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "run the same command again to go on" in told
    _run(big, out, tokenizer, workers=2)
    assert _bytes(out) == undisturbed


def test_a_full_disk_leaves_nothing_that_looks_whole(tmp_path: Path, big: Path, tokenizer: Path, undisturbed: dict[str, str]) -> None:
    out = tmp_path / "out"
    process = _start(big, out, tokenizer, limit=1 << 20)
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 2 and told.startswith("OSError")
    assert not (out / "manifest.json").exists()
    _run(big, out, tokenizer, workers=2)
    assert _bytes(out) == undisturbed


def test_two_at_once_in_one_folder_are_refused(tmp_path: Path, big: Path, tokenizer: Path) -> None:
    out = tmp_path / "out"
    process = _start(big, out, tokenizer)
    while not (out / ".work" / "lock").exists():
        time.sleep(0.005)
    time.sleep(0.1)
    with pytest.raises(ConfigError, match="another `danlu prepare` is at work"):
        _run(big, out, tokenizer)
    process.kill()
    process.communicate()


def test_workers_never_import_torch() -> None:
    root = Path(danlu.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
    code = "import sys, danlu.recipes.prepare; print(sorted({'torch', 'transformers', 'datatrove', 'tensorboard'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=60)
    assert done.stdout.strip() == "[]"


def test_json_is_the_last_line(tmp_path: Path, tokenizer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = _write_rows(tmp_path / "a.jsonl", [_text(seed) for seed in range(30)])
    _run(path, tmp_path / "out", tokenizer, json=True)
    captured = capsys.readouterr()
    told = json.loads(captured.out.splitlines()[-1])
    assert told["counts"]["documents_in"] == 30 and told["files"] == 1 and told["seconds"] > 0
    assert "30 documents in 1 files" in captured.err and "30 kept" in captured.err


def test_tokens_can_be_mapped_and_hold_every_id(tmp_path: Path, tokenizer: Path) -> None:
    _run(_write_rows(tmp_path / "a.jsonl", [_text(seed) for seed in range(30)]), tmp_path / "out", tokenizer)
    [tokens] = open_prepared(tmp_path / "out").split("train")
    assert isinstance(tokens, np.memmap) and tokens.dtype == np.uint16 and tokens.ndim == 1
