"""A training whose disk fills up amid it: a small file system in memory, mounted where nobody else sees it.

python -m tests.faults.full_disk [--first]     or the first half only; prints what was said; needs unshare and the right to make namespaces

It says that it could not save, the earlier checkpoint stays whole, and training goes on: to the end if room is made meanwhile, with
nothing missing from its measurements; else it ends in one line, and --resume completes it once there is room.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from danlu.base.run import Run, find_fault

from .small_run import prepare_text
from .training import begin, command, complete, last_line, losses, print_json, steps_logged, wait_until, weights

STEPS, EVERY = 60, 10
SIZE = "64m"
APART = ["unshare", "--map-root-user", "--mount"]
NO_MOUNT = "no file system can be mounted here (unshare --map-root-user --mount)"


def can_mount() -> bool:
    """Whether a file system of one's own can be mounted."""
    try:
        with tempfile.TemporaryDirectory() as folder:
            mount = [*APART, "mount", "-t", "tmpfs", "none", folder]
            return subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def fill(disk: Path) -> Path:
    """A file that leaves no room for another byte."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return filler


def filled(text: Path, disk: Path, name: str, whole: Path, room_again: bool) -> list[str]:
    """Train, and fill the disk after the first checkpoint; returns what the training said of that."""
    said, run = whole.parent / f"{name}.log", Run(disk / name)
    arguments = command(text, disk, name, STEPS, EVERY)
    child = begin(arguments, said)
    wait_until(lambda: bool(run.checkpoints()) and steps_logged(run.folder) % EVERY == 3, child, "it saved a checkpoint")
    filler, before = fill(disk), run.checkpoints()  # on a busy machine one more may be saved while the disk fills
    wait_until(lambda: said.read_text().count("was not saved") >= 2, child, "two checkpoints were refused")
    newest = run.newest_checkpoint()
    assert newest in before, f"{newest} was saved on a full disk"
    if room_again:
        filler.unlink()
        assert child.wait() == 0, said.read_text()
    else:
        assert child.wait() == 2, said.read_text()
        assert last_line(said).startswith("danlu: "), said.read_text()
        assert "Traceback" not in said.read_text(), said.read_text()
        assert not run.final.exists()
        filler.unlink()
        assert complete([*arguments, "--resume"], said) == 0, said.read_text()
    newest = run.newest_checkpoint()
    assert newest is not None
    assert newest.name == f"step-{STEPS:06d}"
    assert find_fault(run.final) is None
    assert losses(run.folder) == losses(whole)
    assert weights(run.folder) == weights(whole)
    return [line for line in said.read_text().splitlines() if "not" in line.split()]


def within(folder: Path, disk: Path) -> dict[str, object]:
    """What is done where the file system is mounted."""
    text = prepare_text(folder / "text", lines=30)
    assert complete(command(text, folder, "whole", STEPS, EVERY), folder / "whole.log") == 0, last_line(folder / "whole.log")
    names = ("room-again", "full-to-the-end")[: 1 if "--first" in sys.argv else 2]
    return {name: filled(text, disk, name, folder / "whole", name == "room-again") for name in names}


def main() -> None:
    """Print one JSON object."""
    if "--within" not in sys.argv:
        if not can_mount():
            sys.exit(NO_MOUNT)
        sys.exit(
            subprocess.run([*APART, sys.executable, "-m", "tests.faults.full_disk", "--within", *sys.argv[1:]], check=False).returncode
        )
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        disk = Path(folder) / "disk"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(disk)], check=True)
        try:
            found = within(Path(folder), disk)
        finally:
            subprocess.run(["umount", str(disk)], check=True)
    print_json(found, began)


if __name__ == "__main__":
    main()
