from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
import zstandard

from danlu.data import reading, rows
from danlu.data.reading import read_chunks, read_pieces
from danlu.data.sources import find_files

ROWS = [{"text": f'row {number}: 中文, "quoted"\nsecond line', "label": number} for number in range(2500)]


def _rows(path: Path) -> tuple[list[object], list[int], list[str]]:
    """Rows, their numbers, and reasons of bad ones."""
    rows: list[object] = []
    numbers: list[int] = []
    bad: list[str] = []
    [file] = find_files([str(path)])
    for piece in read_pieces(file, 0):
        if piece.kind == "bad":
            bad.append(f"{piece.line}: {piece.content.decode()}")
            continue
        lines = [line for line in piece.content.split(b"\n") if line]
        rows += [json.loads(line) for line in lines]
        numbers += piece.numbers or range(piece.line, piece.line + len(lines))
    return rows, numbers, bad


def _write(folder: Path, name: str, rows: list[dict[str, object]]) -> Path:
    path = folder / name
    suffix = path.suffixes[0]
    if suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=700)
        return path
    if suffix == ".jsonl":
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    elif suffix == ".json":
        text = json.dumps(rows, ensure_ascii=False, indent=1)
    else:
        plain = folder / "plain"
        with plain.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
        text = plain.read_text("utf-8")
    content = text.encode()
    if path.suffix == ".gz":
        content = gzip.compress(content)
    if path.suffix == ".zst":
        content = zstandard.compress(content[:5000]) + zstandard.compress(content[5000:])  # two frames are one file
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet", "a.csv", "a.tsv", "a.jsonl.gz", "a.json.zst", "a.csv.gz", "a.tsv.zst"])
def test_every_row_format_gives_the_same_rows(tmp_path: Path, name: str) -> None:
    rows, numbers, bad = _rows(_write(tmp_path, name, ROWS))
    expected = [{**row, "label": str(row["label"])} for row in ROWS] if ".csv" in name or ".tsv" in name else ROWS
    assert rows == expected
    assert not bad
    first, step = {"csv": (2, 2), "tsv": (2, 2)}.get(name.split(".")[1], (1, 1))
    assert numbers == list(range(first, first + step * len(ROWS), step))


def test_objects_of_objects_and_single_rows_and_lines_named_json(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"A": {"title": "A", "extract": "a"}, "B": {"title": "B", "extract": "b"}}, indent=2))
    assert _rows(path)[0] == [{"title": "A", "extract": "a"}, {"title": "B", "extract": "b"}]
    path.write_text(json.dumps({"text": "one"}, indent=2))
    assert _rows(path)[0] == [{"text": "one"}]
    path.write_text('{"text": "one"}\n{"text": "two"}\n')
    assert _rows(path)[0] == [{"text": "one"}, {"text": "two"}]
    path.write_text(json.dumps({"version": "1.1", "data": [{"text": "one"}, {"text": "two"}]}, indent=2))
    assert _rows(path)[0] == [{"text": "one"}, {"text": "two"}]


@pytest.mark.parametrize("text", ['[{"text": "a"}, {"text": "b"', '[{"text": "a"} oops', '[{"text": "a"}, {"text": "b"}, '])
def test_a_cut_json_list_keeps_what_is_whole(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    rows, _, bad = _rows(tmp_path / "a.json")
    assert rows[0] == {"text": "a"}
    assert len(bad) == 1 and "broken or cut short" in bad[0]


def test_a_long_json_list_is_read_in_parts(tmp_path: Path) -> None:
    rows = [{"text": "x" * 300_000, "label": number} for number in range(12)]
    (tmp_path / "a.json").write_text(json.dumps(rows))
    assert _rows(tmp_path / "a.json")[0] == rows


def test_csv_rows_of_another_width_are_bad(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("text,label\na,1\nb\nc,3,4\nd,5\n")
    rows, numbers, bad = _rows(tmp_path / "a.csv")
    assert [row["text"] for row in rows] == ["a", "d"] and numbers == [2, 5]  # type: ignore[index]
    assert bad == ["3: 1 cells in a row; expected 2 as in the header", "4: 3 cells in a row; expected 2 as in the header"]


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16", "utf-8-sig"])
@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.json"])
def test_rows_in_other_encodings(tmp_path: Path, name: str, encoding: str) -> None:
    rows = [{"text": f"第{number}行：床前明月光，疑是地上霜。", "label": "诗"} for number in range(300)]
    path = _write(tmp_path, name, rows)  # type: ignore[arg-type]
    path.write_bytes(path.read_text("utf-8").encode(encoding))
    assert _rows(path)[0] == rows


@pytest.mark.parametrize("name", ["a.txt.gz", "a.jsonl.zst", "a.parquet", "a.csv.gz"])
def test_damaged_files_are_bad_rows_not_the_end(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    content = b'{"text": "a"}\n' * 1000
    packed = {".gz": gzip.compress(content), ".zst": zstandard.compress(content), ".parquet": b"PAR1" + content + b"PAR1"}[path.suffix]
    path.write_bytes(packed[: len(packed) // 2])
    pieces = list(read_pieces(find_files([str(path)])[0], 0))
    assert pieces[-1].kind == "bad"
    assert b"damaged" in pieces[-1].content or b"not a readable Parquet" in pieces[-1].content


def test_a_giant_document_comes_in_parts_cut_at_lines(tmp_path: Path) -> None:
    text = "".join(f"line {number} 床前明月光\n" for number in range(150_000))
    (tmp_path / "a.txt").write_text(text)
    pieces = list(read_pieces(find_files([str(tmp_path / "a.txt")])[0], 0))
    assert b"".join(piece.content for piece in pieces).decode() == text
    assert len(pieces) > 3
    assert all(len(piece.content) <= rows.DOCUMENT_BYTES and piece.content.endswith(b"\n") for piece in pieces)
    assert len({piece.key for piece in pieces}) == 1 and pieces[0].key
    before = 0
    for piece in pieces:
        assert piece.line == before + 1
        before += piece.content.count(b"\n")


@pytest.mark.parametrize("unit", ["床", "x", "床 "])
def test_a_giant_line_is_cut_between_characters(tmp_path: Path, unit: str) -> None:
    (tmp_path / "a.txt").write_text(unit * 1_000_000)
    pieces = list(read_pieces(find_files([str(tmp_path / "a.txt")])[0], 0))
    assert "".join(piece.content.decode() for piece in pieces) == unit * 1_000_000


def test_a_giant_document_in_gb18030(tmp_path: Path) -> None:
    text = "".join(f"第 {number} 行：床前明月光，疑是地上霜\n" for number in range(60_000))
    (tmp_path / "a.txt").write_bytes(text.encode("gb18030"))
    pieces = list(read_pieces(find_files([str(tmp_path / "a.txt")])[0], 0))
    assert b"".join(piece.content for piece in pieces).decode() == text
    assert all(piece.transcoded for piece in pieces)


def test_a_line_beyond_the_limit_is_set_aside_and_the_next_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "LINE_BYTES", 3 << 20)
    with (tmp_path / "a.jsonl").open("w") as file:
        file.write('{"text": "first"}\n{"text": "' + "x" * (5 << 20) + '"}\n{"text": "third"}\n')
    rows, numbers, bad = _rows(tmp_path / "a.jsonl")
    assert rows == [{"text": "first"}, {"text": "third"}] and numbers == [1, 3]
    assert len(bad) == 1 and bad[0].startswith("2: a line of more than 3 MiB")


def test_chunks_are_the_same_every_time_and_bounded(tmp_path: Path) -> None:
    for number in range(5):
        (tmp_path / f"{number}.txt").write_text(f"text {number}\n" * 100_000)
    once, again = (list(read_chunks(find_files([str(tmp_path)]))) for _ in range(2))
    assert [chunk.fingerprint for chunk in once] == [chunk.fingerprint for chunk in again]
    assert len({chunk.fingerprint for chunk in once}) == len(once) > 1
    assert all(chunk.size < reading.CHUNK_BYTES + 2 * rows.DOCUMENT_BYTES for chunk in once)


def test_an_empty_file_is_one_empty_document(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"")
    [piece] = read_pieces(find_files([str(tmp_path / "a.txt")])[0], 0)
    assert piece.content == b""
