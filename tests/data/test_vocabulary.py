from __future__ import annotations

import struct
from pathlib import Path

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from danlu.base.errors import CheckpointError, ConfigError
from danlu.base.gguf_header import read_header
from danlu.data.vocabulary import load_tokenizer
from danlu.inputs.vocabulary_training import train_bpe, train_wordpiece

FIELDS = {"name": "模型", "count": 7, "rate": 0.5, "yes": True, "words": ["a", "中", ""], "numbers": [1, -2, 3]}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gguf") / "a.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("name", "模型")
    writer.add_uint32("count", 7)
    writer.add_float64("rate", 0.5)
    writer.add_bool("yes", True)
    writer.add_array("words", ["a", "中", ""])
    writer.add_array("numbers", [1, -2, 3])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    return path


def test_fields_are_those_that_the_gguf_package_wrote(written: Path) -> None:
    found = read_header(written).settings
    assert {name: list(found[name]) if name == "words" else found[name] for name in FIELDS} == FIELDS


def test_a_cut_header_is_told(written: Path, tmp_path: Path) -> None:
    content = written.read_bytes()
    path = tmp_path / "cut.gguf"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError):
            read_header(path)


@given(st.integers(0, 10_000), st.integers(0, 255))
def test_a_changed_byte_gives_values_or_one_error(written: Path, place: int, value: int) -> None:
    content = bytearray(written.read_bytes())
    content[place % len(content)] = value
    path = written.with_name("changed.gguf")
    path.write_bytes(content)
    try:
        read_header(path)
    except CheckpointError as error:
        assert "\n" not in str(error)


def test_absurd_lengths_take_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + struct.pack("<Q1sIIQ", 1, b"a", 9, 4, 1 << 62))
    with pytest.raises(CheckpointError, match="cut or damaged"):
        read_header(path)


def test_tokenizers_are_found_in_files_and_folders(tmp_path: Path) -> None:
    learned = train_bpe(["some text to learn from"], vocabulary_size=270)
    for folder in ("model", "run/final", "prepared/tokenizer"):
        (tmp_path / folder).mkdir(parents=True)
        learned.save(tmp_path / folder)
    for name in ("model", "model/tokenizer.json", "run", "prepared"):
        assert load_tokenizer(str(tmp_path / name)).fingerprint == learned.fingerprint


def test_older_files_are_found_too(tmp_path: Path) -> None:
    learned = train_wordpiece(["some text to learn from"], 128)
    vocabulary = learned.raw.get_vocab()
    (tmp_path / "vocab.txt").write_text("".join(f"{token}\n" for token in sorted(vocabulary, key=lambda token: vocabulary[token])))
    assert load_tokenizer(str(tmp_path)).encode("some text") == learned.encode("some text")


def test_a_folder_without_one_is_a_wrong_flag(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no tokenizer\.json and no \.gguf file"):
        load_tokenizer(str(tmp_path))


def test_a_name_that_nobody_knows_is_a_wrong_flag(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        load_tokenizer("no-such-tokenizer")
