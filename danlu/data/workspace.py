"""OUT/.work: what a preparation leaves behind while it runs, so that the same command goes on after kill -9."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from danlu.base.errors import ConfigError, DataError
from danlu.base.storage import remove_partial
from danlu.data.prepared import MANIFEST, WORK, open_prepared


@contextmanager
def opened(out: Path) -> Iterator[Path]:
    """The work folder below `out`, held by this process alone.

    Raises: ConfigError if `out` holds something else, or another preparation is at work in it.
    """
    work = out / WORK
    try:
        if out.exists() and not out.is_dir():
            raise ConfigError(f"--out {out} is a file; expected a folder that is new, empty or made by `danlu prepare`")
        foreign = [path.name for path in out.iterdir()] if out.is_dir() and not work.is_dir() and not (out / MANIFEST).is_file() else []
        if foreign:
            raise ConfigError(f"--out {out} holds something else ({', '.join(sorted(foreign)[:3])}); expected a new or empty folder")
        work.mkdir(parents=True, exist_ok=True)
        lock = (work / "lock").open("a")
    except (PermissionError, NotADirectoryError, FileExistsError) as error:
        raise ConfigError(f"--out {out} cannot be written ({error.strerror}); choose another folder") from error
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"--out {out}: another `danlu prepare` is at work in it; wait for it, or choose another folder") from None
        remove_partial(out)
        remove_partial(work)
        yield work


def is_finished(out: Path) -> bool:
    """Whether an earlier preparation came to its end in `out`."""
    return (out / MANIFEST).is_file()


def finished(out: Path, request: dict[str, Any]) -> dict[str, Any]:
    """The manifest of an earlier preparation of the same input with the same parameters.

    Raises: ConfigError if `out` was prepared from something else; DataError if it is damaged.
    """
    manifest = open_prepared(out).manifest
    before, request = ({name: told.get(name) for name in request} for told in (manifest, json.loads(json.dumps(request))))
    if before != request:
        raise ConfigError(f"--out {out} was prepared before with {_difference(before, request)}; choose another folder, or delete this one")
    return manifest


def clear(work: Path) -> None:
    """Remove the work folder."""
    shutil.rmtree(work, ignore_errors=True)


def check_bad_rows(bad: int, total: int, limit: float, where: Path) -> None:
    """Raises: DataError with the first bad rows if their share is above the limit."""
    if not total or bad / total <= limit:
        return
    with where.open(encoding="utf-8") as file:
        first = [json.loads(line) for _, line in zip(range(3), file, strict=False)]
    told = "; ".join(f"{row['file']}:{row['line']}: {row['reason']}" for row in first)
    raise DataError(f"{bad:,} of {total:,} rows cannot be used, more than --max-bad {limit:g} allows: {told} (all of them in {where})")


def _difference(before: dict[str, Any], now: dict[str, Any]) -> str:
    old, new = before.get("parameters") or {}, now["parameters"]
    changed = [f"{name}={old.get(name)}" for name in new if old.get(name) != new[name]]
    return "other parameters (" + ", ".join(changed[:4]) + ")" if changed else "other input, or input that has changed since"
