"""Finds an existing tokenizer by whatever name a user gives it."""

from __future__ import annotations

from pathlib import Path

from danlu.base.errors import ConfigError
from danlu.base.fetching import path_of
from danlu.base.gguf_header import read_header
from danlu.inputs.gguf_vocabulary import read_vocabulary
from danlu.inputs.tokenizer import Tokenizer
from danlu.inputs.vocabulary_files import FILE, vocabulary_file

PLACES = (".", "final", "tokenizer")  # of a tokenizer in the folder of a model, a run, or prepared text


def load_tokenizer(name: str) -> Tokenizer:
    """The tokenizer of a file, a model's or a run's or a prepared folder, a .gguf file, a catalog name or hf:owner/name.

    Raises: ConfigError or CheckpointError if there is none.
    """
    path = Path(name).expanduser()
    if not path.exists():
        path = path_of(name)
    if path.is_dir():
        inside = [file for place in PLACES if (file := vocabulary_file(path / place))] or sorted(path.glob("*.gguf"))
        if not inside:
            raise ConfigError(f"--tokenizer {name}: no {FILE} and no .gguf file in that folder, nor an older kind; choose another one")
        path = inside[0]
    return read_vocabulary(read_header(path).settings, path) if path.suffix == ".gguf" else Tokenizer.load(path)
