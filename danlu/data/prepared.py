"""Opens a folder made by `danlu prepare`."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.base.errors import ConfigError, DataError
from danlu.data.splitting import SPLITS

MANIFEST = "manifest.json"
TOKENIZER = "tokenizer"
WORK = ".work"  # stands beside the rest while a preparation is under way
FORMAT = 1


@dataclass(frozen=True)
class Prepared:
    """Tokenized text, ready to be memory-mapped."""

    folder: Path
    manifest: dict[str, Any]

    @property
    def tokenizer_folder(self) -> Path:
        """Where the tokenizer lies that made the tokens."""
        return self.folder / TOKENIZER

    @property
    def fingerprint(self) -> str:
        """SHA-256 over what every split consists of: the same tokens, the same fingerprint."""
        return hashlib.sha256(json.dumps(self.manifest["splits"], sort_keys=True).encode()).hexdigest()

    @property
    def separator_id(self) -> int:
        """The token after each document, and so the one that foretells a document's first."""
        return int(self.manifest["tokenizer"]["separator_id"])

    def split(self, name: str) -> list[NDArray[Any]]:
        """The token shards of "train", "validation" or "test", memory-mapped; empty if the split is."""
        return [self._map(shard["tokens_file"]) for shard in self._shards(name)]

    def documents(self, name: str) -> list[NDArray[Any]]:
        """For each shard of a split, rows (start offset, UTF-8 bytes) of its documents.

        Shapes: one (n, 2) array a shard.
        """
        return [self._map(shard["documents_file"]) for shard in self._shards(name)]

    def bytes(self, name: str) -> int:
        """UTF-8 bytes of a split's text, as it was after cleaning."""
        return int(self._described(name)["bytes"])

    def tokens(self, name: str) -> int:
        """Tokens of a split, with an end-of-text token after each document."""
        return int(self._described(name)["tokens"])

    def _shards(self, name: str) -> list[dict[str, Any]]:
        shards: list[dict[str, Any]] = self._described(name)["shards"]
        return shards

    def _described(self, name: str) -> dict[str, Any]:
        if name not in self.manifest["splits"]:
            raise ConfigError(f"unknown split {name!r}; expected one of {', '.join(SPLITS)}")
        described: dict[str, Any] = self.manifest["splits"][name]
        return described

    def _map(self, described: dict[str, Any]) -> NDArray[Any]:
        array: NDArray[Any] = np.load(self.folder / described["name"], mmap_mode="r", allow_pickle=False)
        return array


def open_prepared(folder: Path | str) -> Prepared:
    """Open a prepared folder after checking that every file is there in its full size.

    Raises: DataError when it is no prepared folder, or not whole.
    """
    folder = Path(folder)
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        if (folder / WORK).is_dir():
            raise DataError(f"{folder} is not finished: run the same `danlu prepare` again") from None
        what = "is no prepared data" if folder.exists() else "no such folder"
        raise DataError(f"{folder}: {what}; make some with `danlu prepare SOURCE --out FOLDER`") from None
    except (OSError, ValueError) as error:
        raise DataError(f"{folder / MANIFEST} cannot be read ({error}); delete {folder} and prepare it again") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or "splits" not in manifest:
        raise DataError(f"{folder / MANIFEST} is not a manifest of format {FORMAT}; delete {folder} and prepare it again")
    for split in manifest["splits"].values():
        for shard in split["shards"]:
            for described in (shard["tokens_file"], shard["documents_file"]):
                path = folder / described["name"]
                size = path.stat().st_size if path.is_file() else -1
                if size != described["size"]:
                    came = f"{size} bytes" if size >= 0 else "missing"
                    raise DataError(f"{path} is {came}, expected {described['size']} bytes; delete {folder} and prepare it again")
    return Prepared(folder, manifest)
