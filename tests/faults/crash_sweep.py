"""SIGKILL at each system call while a checkpoint and a final model are saved over older ones.

python -m tests.faults.crash_sweep [POINTS]     all of them by default; prints what was found; needs strace

At every point: the old or the new checkpoint is there, whole; so is the model that would be served; measurements are kept; and the
next saving succeeds and clears up, with no manual step.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from danlu.base.run import Run

from .child import NO_STRACE, STRACE, calls_of, traced
from .small_run import NEW, OLD, SmallRun

# Whatever touches names, contents or their way to the disk, and marks of what the process did in between.
CALLS = (
    "?open,openat,?creat,close,write,pwrite64,writev,pwritev,copy_file_range,sendfile,truncate,ftruncate,fallocate,fsync,fdatasync,"
    "sync_file_range,msync,?rename,?renameat,renameat2,?link,linkat,?mkdir,mkdirat,?rmdir,?unlink,unlinkat,?chmod,fchmod,fchmodat,"
    "mmap,munmap,getdents64"
)


def work(small: SmallRun, run: Run) -> int:
    """All that a training writes at a checkpoint and at its end."""
    run.log(step=NEW, loss_nats=1 / NEW)
    small.save(run, NEW)
    small.finish(run, NEW)
    run.forget_after(NEW)
    run.write_manifest({"settings": {}})
    return 0


def points_of(calls: Counter[str], wanted: int | None) -> list[tuple[str, int]]:
    """(system call, which of its occurrences), all or as many as wanted, spread evenly over each kind of call."""
    every = [(name, number) for name in sorted(calls) for number in range(1, calls[name] + 1)]
    return every if wanted is None else [every[place * len(every) // wanted] for place in range(wanted)]


def sweep(folder: Path, wanted: int | None = None) -> dict[str, object]:
    """Crash at each point and check. Raises: AssertionError at the first that leaves something broken."""
    small = SmallRun(folder)
    run = small.copy()
    calls = calls_of(lambda: work(small, run), CALLS, folder / "calls")
    assert small.check(run) == NEW
    found: Counter[str] = Counter()
    for name, number in points_of(calls, wanted):
        run = small.copy()
        code = traced(lambda run=run: work(small, run), f"trace={name}", f"inject={name}:signal=SIGKILL:when={number}")
        try:
            assert code in (0, -signal.SIGKILL), f"it ended with {code}"
            step = small.check(run)
            assert step == NEW if code == 0 else step in (OLD, NEW), f"step {step} after {code}"
            small.goes_on(run)
        except Exception as error:
            raise AssertionError(f"killed at {name} number {number} of {calls[name]}: {error!r}; see {run.folder}") from error
        found["undisturbed" if code == 0 else "old" if step == OLD else "new"] += 1
    return {"points": sum(found.values()), "newest afterwards": dict(found), "calls": dict(sorted(calls.items()))}


def main() -> None:
    """Print one JSON object."""
    if STRACE is None:
        sys.exit(NO_STRACE)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        found = sweep(Path(folder), int(sys.argv[1]) if len(sys.argv) > 1 else None)
    print(json.dumps(found | {"seconds": round(time.monotonic() - began, 1)}))


if __name__ == "__main__":
    main()
