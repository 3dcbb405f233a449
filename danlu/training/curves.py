"""Curves for TensorBoard, in files that it reads. A disk that is full for a while costs nothing: points wait for room."""

from __future__ import annotations

import io
import os
import time
from contextlib import suppress
from pathlib import Path

from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

FLUSH_SECONDS = 10.0  # between two writings: a row of points a step would be many small ones


class Curves:
    """A file of events, written on the training's own thread: TensorBoard's writer has one that dies of a full disk, and training by it."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"
        self.waiting, self.flushed = b"", 0.0
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def add(self, name: str, value: float, step: int) -> None:
        """One more point of a curve."""
        point = Summary.Value(tag=name, simple_value=value)
        self._write(Event(wall_time=time.time(), step=step, summary=Summary(value=[point])))

    def flush(self) -> None:
        """Write what waits, as far as the disk takes it."""
        with suppress(OSError), self.file.open("ab", buffering=0) as file:
            self.waiting = self.waiting[file.write(self.waiting) :]
        self.flushed = time.monotonic()

    def _write(self, event: Event) -> None:
        record = io.BytesIO()
        RecordWriter(record).write(event.SerializeToString())
        self.waiting += record.getvalue()
        if time.monotonic() - self.flushed > FLUSH_SECONDS:
            self.flush()
