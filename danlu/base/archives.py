"""Take wanted files out of zip, tar and Debian archives without trusting what the archive says of itself."""

from __future__ import annotations

import fnmatch
import hashlib
import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from danlu.base.errors import DataError

CHUNK = 1 << 20
AR_MAGIC = b"!<arch>\n"
AR_HEADER = 60
MEMBERS_LIMIT = 200_000
EXPANSION_LIMIT = 100  # an archive that claims to hold more than this times its own size is a bomb

Member = tuple[str, int, bool, Callable[[], BinaryIO]]  # name, size in bytes, is a plain file, open


def unpack(archive: Path, patterns: tuple[str, ...], into: Path, limit_bytes: int) -> dict[str, str]:
    """Unpack the members that match a pattern, and give each one's name and SHA-256.

    Links are never made, so no member can be written through one.
    Raises: DataError if a member's name leads out of the folder, more than `limit_bytes` would be written,
    the archive claims an impossible size, or it is damaged.
    """
    digests: dict[str, str] = {}
    claimed = written = 0
    claim_limit = EXPANSION_LIMIT * archive.stat().st_size + CHUNK
    try:
        with _members(archive) as members:
            for count, (raw, size, plain, open_member) in enumerate(members):
                name = safe_name(raw, archive)
                claimed += size
                if claimed > claim_limit or count > MEMBERS_LIMIT:
                    told = f"{archive.name} claims to hold {claimed:,} bytes in {count + 1:,} files"
                    raise DataError(f"{told}: refused as a decompression bomb")
                if not plain or not name or not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns):
                    continue
                if name in digests:
                    raise DataError(f"{archive.name} holds {name!r} twice: refused")
                with open_member() as source:
                    digests[name], copied = copy(source, into / name, limit_bytes - written, archive)
                written += copied
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk, not the archive
        raise DataError(_damaged(archive, error)) from error
    except Exception as error:  # zlib.error and lzma.LZMAError share no parent but Exception
        if type(error).__module__ not in ("zlib", "lzma", "_lzma"):
            raise
        raise DataError(_damaged(archive, error)) from error
    if not digests:
        raise DataError(f"{archive.name} holds none of the files wanted from it: {', '.join(patterns)}")
    return digests


def _damaged(archive: Path, error: Exception) -> str:
    reason = str(error).partition("\n")[0].rstrip(":") or type(error).__name__
    return f"{archive.name} is damaged and cannot be unpacked ({reason}): fetch it again"


def safe_name(raw: str, archive: Path) -> str:
    """The member's name as a relative path without dots.

    Raises: DataError if it leads out of the folder it is unpacked in.
    """
    parts = [part for part in raw.split("/") if part not in ("", ".")]
    if raw.startswith("/") or ".." in parts or "\\" in raw or "\0" in raw or (parts and ":" in parts[0][:2]):
        raise DataError(f"{archive.name} holds the path {raw!r}, which leads out of its folder: refused")
    return "/".join(parts)


def copy(source: BinaryIO, target: Path, limit_bytes: int, archive: Path) -> tuple[str, int]:
    """Copy one member to a new file, hashing it, and give its SHA-256 and size."""
    digest, copied = hashlib.sha256(), 0
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("xb") as file:
        while block := source.read(CHUNK):
            copied += len(block)
            if copied > limit_bytes:
                raise DataError(f"{archive.name} unpacks to more than the catalog says: refused as a decompression bomb")
            digest.update(block)
            file.write(block)
    return digest.hexdigest(), copied


@contextmanager
def _members(archive: Path) -> Iterator[Iterator[Member]]:
    with archive.open("rb") as file:
        head = file.read(len(AR_MAGIC))
        file.seek(0)
        if head.startswith(b"PK"):
            with zipfile.ZipFile(file) as packed:
                yield _zip_members(packed)
        else:
            source = _debian_data(file, archive) if head == AR_MAGIC else file
            with tarfile.open(fileobj=source, mode="r:*" if source is file else "r|*") as packed_tar:
                yield _tar_members(packed_tar)


def _zip_members(packed: zipfile.ZipFile) -> Iterator[Member]:
    for info in packed.infolist():
        is_link = (info.external_attr >> 16) & 0o170000 == 0o120000
        yield info.filename, info.file_size, not (info.is_dir() or is_link), lambda info=info: packed.open(info)  # type: ignore[misc]


def _tar_members(packed: tarfile.TarFile) -> Iterator[Member]:
    for info in packed:
        yield info.name, info.size, info.isreg(), lambda info=info: packed.extractfile(info)  # type: ignore[misc]


def _debian_data(file: BinaryIO, archive: Path) -> BinaryIO:
    """The data.tar of a Debian package, which is an `ar` archive: 60-byte headers, members padded to even sizes."""
    file.seek(len(AR_MAGIC))
    while len(header := file.read(AR_HEADER)) == AR_HEADER:
        name, size = header[:16].decode("latin-1").strip().rstrip("/"), int(header[48:58])
        if name.startswith("data.tar"):
            if name.endswith(".zst"):
                raise DataError(f"{archive.name} is packed with zstandard, which is not read here: expected xz or gzip")
            return _Window(file, size)  # type: ignore[return-value]
        file.seek(size + size % 2, io.SEEK_CUR)
    raise DataError(f"{archive.name} holds no data.tar: it is not a Debian package")


class _Window:
    """A file's next `size` bytes, read forwards."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self.file, self.left = file, size

    def read(self, size: int = -1) -> bytes:
        block = self.file.read(self.left if size < 0 else min(size, self.left))
        self.left -= len(block)
        return block
