"""Where files live: plain folders now; sealed folders and buckets can stand behind the same protocol later."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from danlu.base.errors import ConfigError

PARTIAL = ".partial-"  # names that begin so are never whole: readers skip them, writers may remove them


class Storage(Protocol):
    """A set of named files, each of which is there whole or not at all."""

    def open(self, name: str) -> BinaryIO:
        """Open one file for reading."""

    def write_whole(self, name: str, content: bytes | Callable[[BinaryIO], None]) -> None:
        """Write one file so that a reader sees all of it or nothing, whatever happens meanwhile."""

    def list(self) -> list[str]:
        """Names of all whole files, sorted."""


class Folder:
    """A plain folder on a local disk."""

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)

    def open(self, name: str) -> BinaryIO:
        return (self.root / name).open("rb")

    def write_whole(self, name: str, content: bytes | Callable[[BinaryIO], None]) -> None:
        write_whole(self.root / name, content)

    def list(self) -> list[str]:
        files = (path.relative_to(self.root) for path in self.root.rglob("*") if path.is_file())
        return sorted(str(path) for path in files if not any(part.startswith(PARTIAL) for part in path.parts))


def write_whole(path: Path, content: bytes | Callable[[BinaryIO], None]) -> None:
    """Write a file under a temporary name, fsync it, and rename it into place."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f"{PARTIAL}{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            if callable(content):
                content(cast(BinaryIO, file))
            else:
                file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)  # mkstemp gives 0600, which would surprise whoever shares the folder
        os.replace(temporary, path)
    except BaseException as error:
        if isinstance(error, OSError) and error.filename is None:  # fsync does not know what it failed to write
            error.filename = str(path)
        Path(temporary).unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Fill a folder under a temporary name; it takes its own name only once everything in it is on disk.

    Raises: FileExistsError if the folder is already there: whole folders are never overwritten.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists already")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f"{PARTIAL}{path.name}-", dir=path.parent))
    try:
        yield temporary
        sync_tree(temporary)
        temporary.chmod(0o755)
        temporary.rename(path)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    sync_folder(path.parent)


def sync_tree(folder: Path) -> None:
    """Force every file and folder below `folder` to disk."""
    for root, _, files in os.walk(folder):
        for name in files:
            with open(os.path.join(root, name), "rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(root))


def sync_folder(folder: Path) -> None:
    """Force a folder's own entries to disk, so that a rename in it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_partial(folder: Path) -> None:
    """Remove what an interrupted writer left in `folder`."""
    if folder.is_dir():
        for path in folder.iterdir():
            if path.name.startswith(PARTIAL):
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


@contextmanager
def sole(lock: Path, taken: str) -> Iterator[None]:
    """Be the only process that holds a lock file while the block runs; a process that is killed lets go.

    Raises: ConfigError, saying `taken`, if another holds it.
    """
    from filelock import FileLock, Timeout  # late: who only reads has no use for it

    held = FileLock(lock)
    try:
        held.acquire(timeout=0)
    except Timeout:
        raise ConfigError(taken) from None
    try:
        yield
    finally:
        held.release()
