"""Work that goes on beside the training, in a thread of its own."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

NICE = 10  # a tenth of the share of a thread that computes


def _step_back() -> None:
    """Let this thread run above all when a processor has nothing better to do: a step waits for its slowest thread."""
    if sys.platform == "linux":  # elsewhere priorities are whole processes'
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)


class Beside:
    """At most one piece of work at a time; what goes wrong in it is told by the next call."""

    def __init__(self) -> None:
        self.thread = ThreadPoolExecutor(1, thread_name_prefix="beside", initializer=_step_back)
        self.work: Future[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether work is under way."""
        return self.work is not None and not self.work.done()

    def begin(self, work: Callable[[], None]) -> None:
        """Start work once what is under way has ended. Raises: what that raised."""
        self.settle()
        self.work = self.thread.submit(work)

    def settle(self) -> None:
        """Wait for the work under way. Raises: what it raised."""
        work, self.work = self.work, None
        if work is not None:
            work.result()

    def close(self) -> None:
        """Wait, whatever becomes of the work, and end the thread."""
        self.thread.shutdown(wait=True)
