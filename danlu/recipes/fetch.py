"""`danlu fetch`: weights and data into the cache, by catalog name or hub name."""

from __future__ import annotations

import json as encoder
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich import box
from rich.console import Console
from rich.table import Table

from danlu.base.catalog import Entry, entries
from danlu.base.errors import ConfigError
from danlu.base.fetching import Fetched, is_cached
from danlu.base.fetching import fetch as fetch_one
from danlu.base.home import cache
from danlu.base.progress import amount_text

WIDTH_OF_A_PIPE = 160


def fetch(
    *names: str,
    list: bool = False,
    source: Annotated[Path | None, Parameter(name="--from")] = None,
    verify: bool = False,
    json: bool = False,
) -> dict[str, Any]:
    """Fetch weights and data into the cache: checked by SHA-256, once, for use without a network.

    Parameters
    ----------
    names
        Names of the catalog (`--list` shows them), or hf:owner/name[@revision] for a model hub.
    list
        Show every name with its kind, size, licence and whether it is cached.
    source
        A local archive, or a folder of them, instead of the network: for machines that reach none.
    verify
        Hash every cached file again; a damaged one is fetched again.
    json
        Print one JSON object as the last line.
    """
    if list == bool(names):
        raise ConfigError("say what to fetch: `danlu fetch NAME...`, or `danlu fetch --list` for all names")
    if source is not None and len(names) != 1:
        raise ConfigError(f"--from takes one name at a time, got {len(names)}: run it once for each")
    if list:
        report = _listed()
        if not json:
            _show_list(report)
    else:
        report = {"fetched": [_told(fetch_one(name, source=source, verify=verify)) for name in names]}
        if not json:
            for row in report["fetched"]:
                print(row["path"])
    if json:
        print(encoder.dumps(report, ensure_ascii=False))
    return report


def _told(fetched: Fetched) -> dict[str, Any]:
    state = "in the cache already" if fetched.was_cached else "fetched"
    print(f"{fetched.name} {fetched.version}: {state}", file=sys.stderr)
    return {**asdict(fetched), "path": str(fetched.path)}


def _listed() -> dict[str, Any]:
    rows = [_row(entry) for entry in entries().values()]
    return {
        "cache": str(cache()),
        "entries": rows,
        "download_bytes": sum(row["download_bytes"] for row in rows),
        "size_bytes": sum(row["size_bytes"] for row in rows),
        "cached_bytes": sum(row["size_bytes"] for row in rows if row["cached"]),
    }


def _row(entry: Entry) -> dict[str, Any]:
    fields = ("name", "kind", "description", "licence", "owner", "note", "source", "version", "sha256", "download_bytes", "size_bytes")
    return {field: getattr(entry, field) for field in fields} | {"cached": is_cached(entry.name)}


def _show_list(report: dict[str, Any]) -> None:
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH_OF_A_PIPE)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("name", "kind", "cached"):
        table.add_column(column, no_wrap=True)
    for column in ("download", "unpacked"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("licence, and whose", overflow="fold")
    table.add_column("what", overflow="fold")
    for row in report["entries"]:
        sizes = (amount_text(row["download_bytes"], "B"), amount_text(row["size_bytes"], "B"))
        licence = f"{row['licence']}, {row['owner']}" + (f"; {row['note']}" if row["note"] else "")
        table.add_row(row["name"], row["kind"], "yes" if row["cached"] else "no", *sizes, licence, row["description"])
    console.print(table)
    total, cached = amount_text(report["size_bytes"], "B"), amount_text(report["cached_bytes"], "B")
    console.print(f"{len(report['entries'])} names, {total} unpacked, {cached} of it cached in {report['cache']}", soft_wrap=True)
