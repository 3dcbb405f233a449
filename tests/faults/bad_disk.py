"""A disk that fails at fsync, once and for good, and one that has no room at some call.

python -m tests.faults.bad_disk [POINTS]     every call by default; prints what was found; needs strace

Nothing is ever reported as saved that is not; what was saved before can be loaded; training goes on, and saves once the disk is well.
"""

from __future__ import annotations

import errno
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from danlu.base.run import Run
from danlu.cli import main as danlu

from .child import NO_STRACE, STRACE, Tracer, calls_of, traced
from .crash_sweep import points_of
from .small_run import NEW, OLD, SmallRun, prepare_text
from .training import begin, command, complete, last_line, print_json, steps_logged, wait_until

FSYNC, WRITES = "fsync,fdatasync", "write,pwrite64,ftruncate,?mkdir,mkdirat,?rename,?renameat,renameat2"
SAVED, REFUSED = 0, 3
STEPS, EVERY = 60, 10


def work(small: SmallRun, run: Run, name: str, error: int) -> int:
    """Save a checkpoint or a final model; tells whether that was reported as done or as failed."""
    try:
        (small.save if name == "checkpoint" else small.finish)(run, NEW)
    except OSError as failure:
        assert failure.errno == error, failure
        return REFUSED
    return SAVED


def failing_calls(small: SmallRun, name: str, calls: str, error: int, wanted: int | None) -> Counter[str]:
    """Let each call fail once, and then each and all after it."""
    run, found = small.copy(), Counter[str]()
    made = calls_of(lambda: work(small, run, name, error), calls, small.folder / "calls")
    for call, number in points_of(made, wanted):
        for when in (f"{number}", f"{number}+"):
            run = small.copy()
            rule = f"inject={call}:error={errno.errorcode[error]}:when={when}"
            code = traced(lambda run=run: work(small, run, name, error), f"trace={call}", rule)
            try:
                assert code in (SAVED, REFUSED), f"it ended with {code}"
                step = small.check(run)
                assert step in (OLD, NEW)
                assert code == REFUSED or (small.served(run) if name == "final" else step) == NEW, "it was reported as saved"
                small.goes_on(run)
            except Exception as failure:
                raise AssertionError(f"{name}, {rule}: {failure!r}; see {run.folder}") from failure
            found["refused" if code == REFUSED else "saved"] += 1
    return found


def from_the_start(text: Path, runs: Path) -> str:
    """A training on a disk that never syncs is refused in one line; returns the line."""
    said = runs / "dead.log"
    arguments = command(text, runs, "dead", STEPS, EVERY)
    code = traced(lambda: danlu(arguments), f"trace={FSYNC}", f"inject={FSYNC}:error=EIO", said=said)
    assert code == 2, f"it ended with {code}: {said.read_text()[-2000:]}"
    assert len(said.read_text().strip().splitlines()) == 1, said.read_text()
    assert complete(arguments, said) == 0, last_line(said)
    return said.read_text().splitlines()[0]


def for_a_while(text: Path, runs: Path) -> list[str]:
    """A training whose disk fails amid it: it says so, goes on, and saves when the disk is well; returns what it said."""
    said, run = runs / "while.log", Run(runs / "while")
    child = begin(command(text, runs, "while", STEPS, EVERY), said)
    wait_until(lambda: steps_logged(run.folder) > EVERY + 5 and bool(run.checkpoints()), child, "there is a checkpoint")
    tracer = Tracer(child.pid, f"trace={FSYNC}", f"inject={FSYNC}:error=EIO")
    before = run.checkpoints()
    wait_until(lambda: said.read_text().count("was not saved") >= 2, child, "two checkpoints were refused")
    assert run.newest_checkpoint() in before, "it says that it did not save, and did"
    tracer.let_go()
    assert child.wait() == 0, said.read_text()
    complaints = [line for line in said.read_text().splitlines() if "not saved" in line]
    newest = run.newest_checkpoint()
    assert newest is not None
    assert newest.name == f"step-{STEPS:06d}"
    return complaints


def main() -> None:
    """Print one JSON object."""
    if STRACE is None:
        sys.exit(NO_STRACE)
    wanted, began = int(sys.argv[1]) if len(sys.argv) > 1 else None, time.monotonic()
    found: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        small = SmallRun(Path(folder))
        for name in ("checkpoint", "final"):
            found[f"{name}, EIO at fsync"] = dict(failing_calls(small, name, FSYNC, errno.EIO, wanted))
            found[f"{name}, ENOSPC at any write"] = dict(failing_calls(small, name, WRITES, errno.ENOSPC, wanted))
        text, runs = prepare_text(Path(folder) / "small", lines=30), Path(folder)
        found["a disk that fails from the start"] = from_the_start(text, runs)
        found["a disk that fails for a while"] = for_a_while(text, runs)
    print_json(found, began)


if __name__ == "__main__":
    main()
