"""Flipped bits and cut files within checkpoints: each is found before anything is used, and the older checkpoint takes over.

python -m tests.faults.rot [FLIPS CUTS]     1,000 and 200 by default; prints what was found
"""

from __future__ import annotations

import json
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from danlu.base.errors import CheckpointError
from danlu.base.run import MANIFEST, Run, find_fault
from danlu.models.loading import load_model

from .small_run import NEXT, OLD, SmallRun


def flip(whole: bytes, dice: random.Random) -> bytes:
    """One bit changed; every other time near the file's beginning, where its structure is."""
    place = dice.randrange(dice.choice([len(whole), min(len(whole), 2000)]))
    return whole[:place] + bytes([whole[place] ^ 1 << dice.randrange(8)]) + whole[place + 1 :]


def cut(whole: bytes, dice: random.Random) -> bytes:
    """The end gone, or zeros in its place, as a power cut may leave them."""
    left = dice.choice([0, len(whole) - 1, dice.randrange(len(whole))])
    kept = whole[:left]
    return dice.choice([kept, kept, kept + bytes(len(whole) - left)])


@contextmanager
def damaged(file: Path, content: bytes) -> Iterator[None]:
    """Another content for a while. The file is replaced, not written into: the original's inode is shared with other copies."""
    aside = file.with_name(f"{file.name}.original")
    file.rename(aside)
    file.write_bytes(content)
    try:
        yield
    finally:
        file.unlink()
        aside.rename(file)


def files_of(checkpoint: Path) -> list[Path]:
    """All files of a checkpoint."""
    return sorted(path for path in checkpoint.rglob("*") if path.is_file())


def rot(small: SmallRun, flips: int, cuts: int, seed: int = 0) -> Counter[str]:
    """How often damage to each file was found. Raises: AssertionError if any is not, or it does not fall back."""
    dice = random.Random(seed)
    run = small.copy()
    older, newer = run.checkpoints()
    files, others = files_of(newer), files_of(older)
    found: Counter[str] = Counter()
    for number in range(flips + cuts):
        file = files[number % len(files)]
        whole = file.read_bytes()
        content = (flip if number < flips else cut)(whole, dice)
        if content == whole:  # zeros that were zeros before
            content = whole[:-1]
        with damaged(file, content):
            told = f"damage {number} to {file.name}, seed {seed}"
            assert find_fault(newer) is not None, told
            assert run.newest_checkpoint() == older, told
            if number % 10 == 0:
                other = dice.choice(others)
                with damaged(other, flip(other.read_bytes(), dice)):
                    assert "damaged" in _refusal(run), told
        found[str(file.relative_to(newer))] += 1
    assert run.newest_checkpoint() == newer
    return found


def rot_of_final(small: SmallRun, damages: int, seed: int = 0) -> Counter[str]:
    """How often damage to the model that is taken away was found when it was loaded, within its run and moved out of it."""
    dice, run = random.Random(seed), small.copy()
    load_model(str(run.folder))
    alone = Path(shutil.copytree(run.final, run.folder.with_name("taken-away")))
    load_model(str(alone))
    found: Counter[str] = Counter()
    for number in range(damages):
        folder = alone if number % 2 else run.final
        file = dice.choice(files_of(folder))
        if folder == alone and file.name == MANIFEST:
            continue  # what vouches for the others may be gone there: they are whole
        whole = file.read_bytes()
        with damaged(file, (flip if number % 3 else cut)(whole, dice)):
            changed = file.read_bytes() != whole
            try:
                load_model(str(folder))
            except CheckpointError:
                found[file.name] += 1
            else:
                assert not changed, f"damage {number} to {file.name}, seed {seed}"
    return found


def heal(small: SmallRun) -> int:
    """After each file's damage the same step is saved anew, and steps between outlive damaged ones after them."""
    names = [path.relative_to(small.template.checkpoints()[-1]) for path in files_of(small.template.checkpoints()[-1])]
    for name in names:
        run = small.copy()
        newer = run.checkpoints()[-1]
        _cut_short(newer / name)
        small.save(run, OLD)
        assert small.check(run) == OLD, f"step {OLD} was not saved anew after damage to {name}"
        small.goes_on(run)

        run = small.copy()
        for step in (NEXT + 10, NEXT + 20):
            shutil.copytree(run.checkpoints()[-1], run.folder / "checkpoints" / f"step-{step:06d}")
        for late in run.checkpoints()[1:]:
            _cut_short(late / name)
        small.save(run, NEXT)
        newest = run.newest_checkpoint()
        assert newest is not None, "nothing whole is left"
        assert newest.name == f"step-{NEXT:06d}", f"{newest} instead of what was saved last"
    return len(names)


def _refusal(run: Run) -> str:
    try:
        place = run.newest_checkpoint()
    except CheckpointError as error:
        assert "\n" not in str(error), error
        return str(error)
    raise AssertionError(f"{place} was taken for whole")


def _cut_short(file: Path) -> None:
    content = file.read_bytes()
    file.unlink()
    file.write_bytes(content[:-1])


def main() -> None:
    """Print one JSON object."""
    flips, cuts = map(int, sys.argv[1:3]) if len(sys.argv) > 2 else (1000, 200)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        small = SmallRun(Path(folder))
        found, healed, loaded = rot(small, flips, cuts), heal(small), rot_of_final(small, (flips + cuts) // 4)
    seconds = round(time.monotonic() - began, 1)
    told = {"flips": flips, "cuts": cuts, "found": dict(found), "healed": healed, "found when loaded": dict(loaded), "seconds": seconds}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
