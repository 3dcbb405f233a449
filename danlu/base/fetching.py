"""Turn a catalog name into files on this machine: fetched once, checked before they are opened, published whole or not at all."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.base.archives import CHUNK, unpack
from danlu.base.catalog import Archive, Entry, find
from danlu.base.errors import ConfigError, DataError
from danlu.base.home import cache
from danlu.base.hub import hub_path, is_hub_name, is_snapshot_cached, snapshot
from danlu.base.packages import download
from danlu.base.storage import PARTIAL, remove_partial, whole_folder, write_whole

MANIFEST = "manifest.json"
FORMAT = 1
NEWER_GROWTH = 4  # a newer package than the pinned one may hold this many times the pinned one's bytes


@dataclass(frozen=True, kw_only=True)
class Fetched:
    """What is in the cache under a name."""

    name: str
    path: Path
    version: str
    was_cached: bool


def path_of(name: str) -> Path:
    """The file or folder a catalog name or `hf:owner/name` stands for, fetched if it is missing and sound in any case.

    Raises: ConfigError if the name is unknown or it cannot be fetched; DataError if what came is not what the catalog says.
    """
    return fetch(name).path


def is_cached(name: str) -> bool:
    """Whether a catalog name can be used without a network."""
    entry = find(name)
    if entry.source == "hub":
        return is_snapshot_cached(entry.archives[0].package, entry.version)
    return _sound(entry) is not None


def fetch(name: str, *, source: Path | None = None, verify: bool = False) -> Fetched:
    """Make sure that a name is in the cache; `source` is a local archive (or a folder of them), `verify` hashes every file again."""
    if is_hub_name(name):
        if source is not None:
            raise ConfigError(f"{name} is a hub name: --from takes archives of catalog entries only")
        return Fetched(name=name, path=hub_path(name), version=name.partition("@")[2] or "main", was_cached=False)
    entry = find(name)
    if entry.source == "hub":
        path = snapshot(entry.archives[0].package, entry.version)
        return Fetched(name=name, path=path / entry.path, version=entry.version, was_cached=False)
    if manifest := _sound(entry, verify=verify):
        return _fetched(entry, manifest, was_cached=True)
    with _locked(entry):
        if manifest := _sound(entry, verify=verify):  # another process was faster
            return _fetched(entry, manifest, was_cached=True)
        _clear(entry)
        print(f"licence of {entry.licence_line}", file=sys.stderr)
        return _fetched(entry, _fill(entry, source), was_cached=False)


def _fetched(entry: Entry, manifest: dict[str, Any], was_cached: bool) -> Fetched:
    path = _folder(entry) / "files" / entry.path
    if not path.exists():
        raise ConfigError(f"{entry.name} holds no {entry.path!r}: the catalog's `path` is wrong for version {manifest['version']}")
    return Fetched(name=entry.name, path=path, version=manifest["version"], was_cached=was_cached)


def _folder(entry: Entry) -> Path:
    return cache() / entry.name / "whole"


@contextlib.contextmanager
def _locked(entry: Entry) -> Iterator[None]:
    from filelock import FileLock, Timeout  # late: most of what is asked for has been fetched

    folder = cache() / entry.name
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{entry.name} is being fetched by another process: waiting for it", file=sys.stderr)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _clear(entry: Entry) -> None:
    """Remove what an interrupted fetch left, and what is no longer sound. Only under the lock."""
    folder = _folder(entry)
    if folder.exists():
        folder.rename(folder.with_name(f"{PARTIAL}damaged"))  # out of sight at once: deleting takes time
    for _ in range(5):
        try:
            remove_partial(folder.parent)
        except OSError:  # a client whose parent was killed may be writing there still; it ends when its folder goes
            time.sleep(0.2)
        else:
            break


def _fill(entry: Entry, source: Path | None) -> dict[str, Any]:
    needed, free = 2 * entry.download_bytes + entry.size_bytes, shutil.disk_usage(cache()).free  # clients keep a copy while they work
    if free < needed:
        said = f"{entry.name} needs {needed:,} bytes while it is fetched and {cache()} has {free:,}"
        raise ConfigError(f"{said}: make room, or move DANLU_HOME")
    with whole_folder(_folder(entry)) as folder:
        packed = folder / "packed"
        packed.mkdir()
        archives = _local(entry, source) if source is not None else download(entry, packed)
        digests, pinned, version = _unpack_all(entry, archives, folder / "files", may_be_newer=source is None)
        shutil.rmtree(packed)
        manifest = {
            "format": FORMAT,
            "name": entry.name,
            "version": version,
            "pinned": pinned,
            "catalog_sha256": [archive.sha256 for archive in entry.archives],
            "licence": entry.licence_line,
            "fetched_at": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            "files": {name: {"sha256": digest, **_look(folder / "files" / name)} for name, digest in sorted(digests.items())},
        }
        write_whole(folder / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False).encode())
    return manifest


def _unpack_all(entry: Entry, archives: list[Path], into: Path, may_be_newer: bool) -> tuple[dict[str, str], bool, str]:
    limit = entry.size_bytes
    pinned, version = True, entry.version
    digests: dict[str, str] = {}
    for known, archive in zip(entry.archives, archives, strict=True):
        digest = hash_file(archive)
        if digest != known.sha256:
            version = _newer_version(entry, known, archive, digest, may_be_newer)
            pinned, limit = False, entry.size_bytes * NEWER_GROWTH
        digests |= unpack(archive, entry.files, into, limit - sum(path.stat().st_size for path in into.rglob("*") if path.is_file()))
    if entry.joined_as:
        digests = _join(digests, into, entry.joined_as)
    return digests, pinned, version


def _newer_version(entry: Entry, known: Archive, archive: Path, digest: str, may_be_newer: bool) -> str:
    """Debian's mirrors drop old versions: another version, which apt verified against its signed index, is taken and said to be so."""
    version = archive.name.split("_")[1].replace("%3a", ":") if archive.suffix == ".deb" and archive.name.count("_") >= 2 else known.version
    if entry.source != "debian" or not may_be_newer or version == known.version:
        raise DataError(
            f"{entry.name}: {archive.name} has SHA-256 {digest}, the catalog expects {known.sha256} ({known.package} {known.version}): "
            f"it was changed or damaged on its way and was not opened; fetch it again, or from another mirror"
        )
    print(f"{entry.name}: version {version} instead of the pinned {known.version}, which this mirror does not have", file=sys.stderr)
    return version


def _join(digests: dict[str, str], folder: Path, joined_as: str) -> dict[str, str]:
    digest = hashlib.sha256()
    target = folder / joined_as
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as whole:
        for name in digests:
            with (folder / name).open("rb") as part:
                while block := part.read(CHUNK):
                    digest.update(block)
                    whole.write(block)
            (folder / name).unlink()
    return {joined_as: digest.hexdigest()}


def _local(entry: Entry, source: Path) -> list[Path]:
    """The entry's archives among local files, known by their checksum, whatever their names are."""
    if not source.exists():
        raise ConfigError(f"--from {source}: there is no such file or folder")
    candidates = sorted(path for path in source.iterdir() if path.is_file()) if source.is_dir() else [source]
    found = []
    for known in entry.archives:
        match = next((path for path in candidates if path.stat().st_size == known.size_bytes and hash_file(path) == known.sha256), None)
        if match is None:
            raise DataError(
                f"--from {source}: it is not {known.package} {known.version} ({known.size_bytes:,} bytes, SHA-256 {known.sha256}), "
                f"which {entry.name} needs: take that version"
            )
        found.append(match)
    return found


def _sound(entry: Entry, verify: bool = False) -> dict[str, Any] | None:
    """The manifest, if every file is as it says; a file whose time changed, or every file with `verify`, is hashed again."""
    folder = _folder(entry)
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if manifest["format"] != FORMAT or manifest["catalog_sha256"] != [archive.sha256 for archive in entry.archives]:
            return None
        for name, known in manifest["files"].items():
            path = folder / "files" / name
            seen = _look(path)
            if seen["size_bytes"] != known["size_bytes"]:
                return None
            if (verify or seen["modified_ns"] != known["modified_ns"]) and hash_file(path) != known["sha256"]:
                return None
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return manifest


def _look(path: Path) -> dict[str, int]:
    status = path.stat()
    return {"size_bytes": status.st_size, "modified_ns": status.st_mtime_ns}


def hash_file(path: Path) -> str:
    """The SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
