"""A run on disk; only this file knows where in it things lie. A run's folder can be moved, zipped, served and continued."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from danlu.base.errors import CheckpointError, ConfigError
from danlu.base.storage import PARTIAL, remove_partial, sole, sync_folder, whole_folder, write_whole

FORMAT = 1
MANIFEST = "manifest.json"
STEP = re.compile(r"step-\d{6,}")
NAME = re.compile(r"[\w.\-\u4e00-\u9fff]{1,100}")


class Run:
    """One training run: its settings, measurements, checkpoints and final model."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.final = folder / "final"
        self.tensorboard = folder / "tensorboard"
        self.data = folder / "data"
        self.profile = folder / "profile"
        self.manifest_file = folder / MANIFEST
        self._metrics = folder / "metrics.jsonl"
        self._inputs = folder / "inputs.txt"
        self._waiting = b""

    @classmethod
    def create(cls, runs: Path, name: str, config: dict[str, Any]) -> Run:
        """Begin a run under runs/name; one whose training never began, since its data or start was refused, gives way.

        Raises: ConfigError if the name is taken or no name.
        """
        check_name(name)
        run = cls(runs / name)
        if run.exists():
            if run.manifest_file.exists():
                raise ConfigError(f"{run.folder} is there already; go on with --resume, or choose another --name")
            # The same command again goes on with the data that it prepared.
            if run.config != json.loads(_json({"format": FORMAT, **config})):
                _remove_whole(run.folder)
        run.folder.mkdir(parents=True, exist_ok=True)
        write_whole(run.folder / "config.json", _json({"format": FORMAT, **config}))
        return run

    @classmethod
    def open(cls, folder: Path) -> Run:
        """Open a run that is there. Raises: ConfigError if it is not."""
        run = cls(folder)
        if not run.exists():
            raise ConfigError(f"{folder} is no run; begin it without --resume")
        return run

    @classmethod
    def holding(cls, place: Path) -> Run:
        """The run that a folder is, or that its final/ or checkpoint belongs to."""
        for folder in (place, place.parent, place.parent.parent):
            if cls(folder).exists():
                return cls(folder)
        return cls(place)

    def exists(self) -> bool:
        """Whether a run was begun here."""
        file = self.folder / "config.json"
        try:
            return json.loads(file.read_text()).get("format") == FORMAT
        except (OSError, ValueError, AttributeError, RecursionError):
            return False

    @property
    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = json.loads((self.folder / "config.json").read_text())
        return config

    @property
    def manifest(self) -> dict[str, Any]:
        try:
            manifest: dict[str, Any] = dict(json.loads(self.manifest_file.read_text()))
        except (OSError, ValueError, TypeError) as error:
            raise CheckpointError(f"{self.manifest_file} cannot be read ({error}); begin another --name from {self.folder}") from None
        return manifest

    def log(self, **row: Any) -> None:
        """Add one row to metrics.jsonl; what the disk does not take is kept, and goes before the next row."""
        self._waiting += json.dumps(row).encode() + b"\n"
        with suppress(OSError), self._metrics.open("ab", buffering=0) as file:  # training outlives a full disk
            self._waiting = self._waiting[file.write(self._waiting) :]

    def metrics(self) -> list[dict[str, Any]]:
        """All rows of metrics.jsonl that can be read."""
        return self.read_metrics()[0]

    def read_metrics(self) -> tuple[list[dict[str, Any]], str | None]:
        """All rows of metrics.jsonl that can be read, and what is wrong with the rest; a last line cut short by a kill is no fault."""
        if not self._metrics.is_file():
            return [], None
        rows, fault = [], None
        lines = self._metrics.read_bytes().split(b"\n")
        for number, line in enumerate(lines, 1):
            try:
                row = json.loads(line) if line else None
            except ValueError:
                row = None
            if isinstance(row, dict):
                rows.append(row)
            elif line and number < len(lines):
                fault = fault or f"metrics.jsonl: line {number} cannot be read"
        return rows, fault

    def evaluations(self) -> dict[str, dict[str, Any]]:
        """What was measured, by task; files that cannot be read are left out."""
        found = {}
        for file in sorted(self.folder.glob("evaluation/*.json")):
            try:
                content = json.loads(file.read_bytes())
            except (OSError, ValueError):
                continue
            if isinstance(content, dict):
                found[file.stem] = content
        return found

    @property
    def begun_at(self) -> float:
        """When the run was created, in seconds since 1970."""
        file = self.folder / "config.json"
        return (file if file.is_file() else self.folder).stat().st_mtime

    @property
    def touched_at(self) -> float:
        """When training last wrote down a step, or else that it began, in seconds since 1970; 0 if it never did."""
        return max((file.stat().st_mtime for file in (self._metrics, self.manifest_file) if file.is_file()), default=0.0)

    @property
    def final_at(self) -> float:
        """When the model to take away was written, in seconds since 1970; 0 if there is none. It is there whole or not at all."""
        return max((file.stat().st_mtime for file in self.final.glob("*")), default=0.0)

    def forget_after(self, step: int) -> None:
        """Drop measurements of steps that will be done again."""
        rows = [json.dumps(row) + "\n" for row in self.metrics() if row.get("step", 0) <= step]
        write_whole(self._metrics, "".join(rows).encode())

    def save_checkpoint(self, step: int, write: Callable[[Path], None], keep: int = 0) -> Path:
        """Publish a checkpoint: `write` fills a folder, which then appears whole, its manifest of SHA-256 within.

        Older ones but the one before and that of step `keep` are removed.
        """
        place = self.checkpoint(step)
        place.parent.mkdir(parents=True, exist_ok=True)
        remove_partial(place.parent)
        if place.exists():  # a run that goes on may reach the same step again
            if find_fault(place) is None:
                return place
            _remove_whole(place)
        _publish(place, write)
        kept = self.checkpoints()
        last = kept.index(place)  # those after it were damaged, or the run would have gone on from them
        for other in kept[: max(0, last - 1)] + kept[last + 1 :]:
            if other != self.checkpoint(keep):
                _remove_whole(other)
        return place

    def save_final(self, write: Callable[[Path], None]) -> Path:
        """Publish the model to take away; an older one, of a run that went on, gives way only once the new one is whole."""
        remove_partial(self.folder)
        fresh = self.folder / "final-new"
        if fresh.exists() and not self.final.exists():  # a kill came between the two renames below
            fresh.rename(self.final)
        _remove_whole(fresh)
        _publish(fresh, write)
        _take_name(self.final)
        fresh.rename(self.final)
        sync_folder(self.folder)
        remove_partial(self.folder)
        return self.final

    def checkpoint(self, step: int) -> Path:
        """The folder of a step's checkpoint."""
        return self.folder / "checkpoints" / f"step-{step:06d}"

    def checkpoints(self) -> list[Path]:
        """Folders of checkpoints, oldest first."""
        found = {int(path.name[5:]): path for path in self.folder.glob("checkpoints/step-*") if STEP.fullmatch(path.name)}
        return [found[step] for step in sorted(found)]  # by number: from step 1,000,000 on, names have more digits

    def newest_checkpoint(self) -> Path | None:
        """The newest checkpoint that is whole; damaged ones are passed over.

        Raises: CheckpointError if there are checkpoints and every one is damaged.
        """
        faults = []
        for place in reversed(self.checkpoints()):
            fault = find_fault(place)
            if fault is None:
                return place
            faults.append(fault)
        if faults:
            raise CheckpointError(f"every checkpoint of {self.folder} is damaged ({faults[0]}); begin anew with another --name")
        return None

    def write_sample(self, step: int, text: str) -> None:
        """Keep what the model wrote on the way, if the disk takes it: training does not end for a sample."""
        with suppress(OSError):
            write_whole(self.folder / "samples" / f"step-{step:06d}.txt", text.encode())

    def write_manifest(self, content: dict[str, Any]) -> None:
        write_whole(self.manifest_file, _json({"format": FORMAT, **content}))

    def write_inputs(self, keys: Iterable[int]) -> None:
        """Keep a hash of each example that is trained on, as hexadecimal lines, so that evaluation can name those it meets again."""
        write_whole(self._inputs, "".join(f"{key:016x}\n" for key in sorted(set(keys))).encode())

    def inputs(self) -> set[int]:
        """The hashes of examples that were trained on; none if they were not kept."""
        return {int(line, 16) for line in self._inputs.read_text().split()} if self._inputs.is_file() else set()

    def write_evaluation(self, task: str, content: dict[str, Any]) -> None:
        write_whole(self.folder / "evaluation" / f"{task}.json", _json(content))


@contextmanager
def sole_writer(place: Path) -> Iterator[None]:
    """Keep a run to this process while the block runs; a process that is killed lets go.

    Raises: ConfigError if another process has it, or the name is none.
    """
    place = place.resolve()
    check_name(place.name)
    place.parent.mkdir(parents=True, exist_ok=True)
    taken = f"another process is training {place}; wait until it ends, or choose another --name"
    with sole(place.parent / f".{place.name}.lock", taken):  # beside the folder, which may give way to another
        yield


def check_name(name: str) -> None:
    """Raises: ConfigError if a run cannot have that name."""
    if not NAME.fullmatch(name) or name.startswith("."):
        raise ConfigError(f"--name came as {name!r}; expected letters, digits, dots, dashes and underscores")


def list_runs(folder: Path) -> list[Run]:
    """Every run in a folder, whole, half or damaged, and nothing else that may lie there.

    Raises: ConfigError if there is no such folder.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is no folder; `danlu train` makes it, or name another with --runs")
    places = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [run for run in map(Run, places) if run.exists() or _was_run(run.folder)]


def _was_run(folder: Path) -> bool:
    """Whether a run was here, though its settings cannot be read; a Hugging Face folder has a config.json too."""
    if any((folder / name).exists() for name in ("metrics.jsonl", "checkpoints", "tensorboard")):
        return True
    try:
        return "format" in json.loads((folder / "config.json").read_bytes())
    except ValueError:
        return True
    except (OSError, TypeError):
        return False


def find_fault(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint by its manifest, or None if all of it is there and unchanged."""
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text())
        if manifest["format"] != FORMAT:
            return f"{checkpoint / MANIFEST} came with format {manifest['format']!r}, expected {FORMAT}"
        for name, digest in manifest["sha256"].items():
            if _sha256(checkpoint / name) != digest:
                return f"{checkpoint / name} has changed since it was written"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return f"{checkpoint} cannot be verified ({error!r})"
    return None


def is_published(folder: Path) -> bool:
    """Whether a folder has a manifest that a run wrote, damaged or not: it lies in a run, or the manifest says so."""
    file = folder / MANIFEST
    if not file.is_file() or Run(folder).exists():
        return False
    try:
        return Run.holding(folder).exists() or "sha256" in json.loads(file.read_text())
    except (OSError, ValueError, TypeError, RecursionError):
        return False


def _publish(place: Path, write: Callable[[Path], None]) -> None:
    with whole_folder(place) as folder:
        write(folder)
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        write_whole(folder / MANIFEST, _json({"format": FORMAT, "sha256": {str(p.relative_to(folder)): _sha256(p) for p in files}}))


def _remove_whole(folder: Path) -> None:
    """Take a folder's name away first, so that a kill in the middle never leaves half of it under that name."""
    remove_partial(folder.parent)  # what an earlier kill left, or the name below would be taken
    _take_name(folder)
    remove_partial(folder.parent)


def _take_name(folder: Path) -> None:
    if folder.exists():
        folder.rename(folder.with_name(f"{PARTIAL}{folder.name}-old"))


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _json(content: Any) -> bytes:
    return json.dumps(content, indent=2, ensure_ascii=False).encode()
