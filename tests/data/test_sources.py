from __future__ import annotations

from pathlib import Path

import pytest

from danlu.base.errors import ConfigError, DataError
from danlu.data.sources import find_files, format_of


def test_a_folder_is_searched_through_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    for name in ("b.txt", "a/z.md", "a/b.jsonl.gz", "c.PARQUET", "ignored.png", ".hidden.txt", ".git/x.txt", "d.json.zst"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    found = find_files([str(folder)])
    assert [file.name for file in found] == [
        "corpus/a/b.jsonl.gz",
        "corpus/a/z.md",
        "corpus/b.txt",
        "corpus/c.PARQUET",
        "corpus/d.json.zst",
    ]
    assert [(file.format, file.compression) for file in found] == [
        ("jsonl", "gzip"), ("text", ""), ("text", ""), ("parquet", ""), ("json", "zstd"),
    ]  # fmt: skip


def test_manual_pages_are_known_by_their_folder_too(tmp_path: Path) -> None:
    for name in ("man1/ls.1.gz", "man7/after.3tcl", "manual/a.1", "logs/system.1", "lib/thing.so.1", "a.1"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert [file.name.partition("/")[2] for file in find_files([str(tmp_path)])] == ["man1/ls.1.gz", "man7/after.3tcl", "manual/a.1"]
    assert find_files([str(tmp_path / "a.1")])[0].format == "man"  # whoever names a file means it


def test_what_is_named_twice_is_read_once_at_its_first_place(tmp_path: Path) -> None:
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text("x")
    found = find_files([str(tmp_path / "b.txt"), str(tmp_path), str(tmp_path / "b.txt")])
    assert [file.path.name for file in found] == ["b.txt", "a.txt"]


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("a.txt", ("text", "")), ("a.tar.gz", None), ("a", None), ("a.gz", None), ("a.b.HTML", ("html", "")), ("x.csv.gz", ("csv", "gzip")),
        ("ls.1", ("man", "")), ("ls.8.gz", ("man", "gzip")), ("after.3tcl.gz", ("man", "gzip")),
        ("a.9", None), ("a.7z", None), ("a.3gp", None),
    ],
)  # fmt: skip
def test_formats_by_name(name: str, known: tuple[str, str] | None) -> None:
    assert format_of(name) == known


def test_what_is_not_there_is_told_with_a_way_out(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file or folder, nor a catalog name") as caught:
        find_files([str(tmp_path / "missing.txt")])
    assert "\n" not in str(caught.value)


def test_an_unknown_format_names_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "a.docx").write_bytes(b"x")
    with pytest.raises(ConfigError, match=r"unknown format \.docx; expected \.txt"):
        find_files([str(tmp_path / "a.docx")])
    with pytest.raises(DataError, match="holds no file of a known format"):
        find_files([str(tmp_path)])


def test_a_wrong_hub_name_is_a_wrong_flag() -> None:
    with pytest.raises(ConfigError, match="expected hf:owner/name"):
        find_files(["hf:not a name/at all/"])


def test_a_hub_that_cannot_be_reached_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(DataError, match="cannot be reached") as caught:
        find_files(["hf:danlu/surely-not-there"])
    assert "\n" not in str(caught.value)
