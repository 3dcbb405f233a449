"""Which files a user means by a path, a folder, a catalog name or a Hugging Face data set."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from danlu.base.catalog import is_known
from danlu.base.errors import ConfigError, DataError
from danlu.base.fetching import path_of

DOCUMENT_FORMATS = {".txt": "text", ".text": "text", ".md": "text", ".markdown": "text", ".rst": "text", ".html": "html", ".htm": "html"}
ROW_FORMATS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
FORMATS = DOCUMENT_FORMATS | ROW_FORMATS
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
MAN_SECTION = re.compile(r"[1-8](?:tcl|tk)?")
HUB_PREFIX = "hf:"
KNOWN = f"{' '.join(FORMATS)}, .1 to .8 (manual pages, in folders called man...), or one of these with .gz or .zst"


@dataclass(frozen=True, kw_only=True)
class SourceFile:
    """One input file; `name` is how reports call it, the same on every machine."""

    path: Path
    name: str
    format: str
    compression: str
    size: int

    def sha256(self) -> str:
        """The file's SHA-256, in hex."""
        with self.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def find_files(sources: list[str]) -> list[SourceFile]:
    """All files that `sources` stand for, in the order given; folders are searched through, sorted by name.

    Raises: ConfigError for what is not there or of no known format; DataError for a folder with nothing readable in it.
    """
    if not sources:
        raise ConfigError("no source was named; expected files, folders, catalog names or hf:owner/name")
    found: list[SourceFile] = []
    for source in sources:
        found += _find(source)
    unique: dict[Path, SourceFile] = {}
    for file in found:
        unique.setdefault(file.path, file)
    return list(unique.values())


def format_of(name: str) -> tuple[str, str] | None:
    """(format, compression) by a file's name, or None if it is none that is known."""
    stem, _, suffix = name.lower().rpartition(".")
    compression = COMPRESSIONS.get(f".{suffix}", "")
    if compression:
        suffix = stem.rpartition(".")[2] if "." in stem else ""
    kind = "man" if MAN_SECTION.fullmatch(suffix) else FORMATS.get(f".{suffix}")
    return (kind, compression) if kind else None


def _find(source: str) -> list[SourceFile]:
    path = Path(source).expanduser()
    if source.startswith(HUB_PREFIX):
        return _files_below(_download(source), source)
    if not path.exists():
        if not is_known(source):
            raise ConfigError(f"{source}: no such file or folder, nor a catalog name (`danlu fetch --list` shows those)")
        path = Path(path_of(source))
    if path.is_dir():
        return _files_below(path, source)
    return [_file(path.resolve(), path.name, source)]


def _file(path: Path, name: str, source: str) -> SourceFile:
    known = format_of(path.name)
    if known is None:
        raise ConfigError(f"{source}: unknown format {path.suffix or 'without a suffix'}; expected {KNOWN}")
    return SourceFile(path=path, name=name, format=known[0], compression=known[1], size=path.stat().st_size)


def _files_below(folder: Path, source: str) -> list[SourceFile]:
    """Files of known formats, sorted by their path below the folder; hidden ones are left alone."""
    folder = folder.resolve()
    base = source if source.startswith(HUB_PREFIX) else folder.name
    found: list[tuple[str, SourceFile]] = []
    for root, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = "" if root == str(folder) else Path(root).relative_to(folder).as_posix() + "/"
        for name in names:
            known = None if name.startswith(".") else format_of(name)
            path = Path(root, name)
            if known and known[0] == "man" and not path.parent.name.startswith("man"):
                continue  # logs and libraries end in numbers too
            if known and path.is_file():
                file = SourceFile(path=path, name=f"{base}/{below}{name}", format=known[0], compression=known[1], size=path.stat().st_size)
                found.append((below + name, file))
    if not found:
        raise DataError(f"{source}: holds no file of a known format; expected {KNOWN}")
    return [file for _, file in sorted(found, key=lambda pair: pair[0])]


def _download(source: str) -> Path:
    """Fetch the recognised files of a data set of the Hugging Face hub into its own cache."""
    name = source.removeprefix(HUB_PREFIX)
    patterns = [f"*{suffix}{packed}" for suffix in FORMATS for packed in ("", *COMPRESSIONS)]
    try:
        return Path(huggingface_hub.snapshot_download(name, repo_type="dataset", allow_patterns=patterns))
    except HFValidationError as error:
        raise ConfigError(f"{source}: not a name of the hub; expected hf:owner/name") from error
    except LocalEntryNotFoundError as error:
        raise DataError(f"{source}: the hub cannot be reached and the data set is not cached; fetch it on a connected machine") from error
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DataError(f"{source}: the hub did not give the data set ({reason}); check the name and the network") from error
