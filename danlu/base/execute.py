"""One ordered map over many items: processes of this machine now, a cluster behind the same call later."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import chain, islice
from multiprocessing import connection, forkserver
from types import ModuleType
from typing import TypeVar

from danlu.base.errors import DanluError

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2  # items a worker may have waiting: enough to keep it busy, few enough to bound memory


def cores() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def map(
    function: Callable[[Item], Result], items: Iterable[Item], *, workers: int | None = None, threads: bool = False
) -> Iterator[Result]:
    """Apply `function` to every item in worker processes and give the results in the items' order.

    At most AHEAD items a worker are taken from `items` in advance, so an endless stream needs bounded memory. One item, or
    one worker, runs in this process. The function must be importable by name (or a functools.partial of such a one).
    With `threads` the workers are threads: for compiled work that leaves Python alone and shares something large.
    Raises: what the function raises; DanluError when a worker process is killed.
    """
    count = workers or cores()
    stream = iter(items)
    first = list(islice(stream, 2))
    stream = chain(first, stream)
    if count == 1 or len(first) < 2:
        for item in stream:
            yield function(item)
        return
    pool: Executor
    if threads:
        pool = ThreadPoolExecutor(count)
    else:
        pool = ProcessPoolExecutor(count, mp_context=_context(function), initializer=_start_worker)
    waiting: deque[Future[Result]] = deque()
    try:
        for item in stream:
            with _main_hidden(function):
                waiting.append(pool.submit(function, item))
            if len(waiting) > count * AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    except BrokenProcessPool as error:
        raise DanluError(
            "a worker process was killed (often: memory ran out); what was finished is kept: "
            "run the same command again, with fewer --workers"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def warm_up(function: Callable[..., object], workers: int | None = None) -> None:
    """Begin to import what `function` needs, in the background, before the first item is there."""
    context = _context(function)
    if (workers or cores()) > 1 and context.get_start_method() == "forkserver":
        with _main_hidden(function):
            forkserver.ensure_running()


def _context(function: Callable[..., object]) -> multiprocessing.context.BaseContext:
    """Processes forked from a clean server: forking this one would copy its threads' locks (tokenizers, torch) in any state."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_module(function)])  # imported once, shared by all workers
    return context


def _module(function: Callable[..., object]) -> str:
    return str(getattr(function, "func", function).__module__)


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle: workers finish what they hold
    threading.Thread(target=_die_with_parent, daemon=True).start()


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        connection.wait([parent.sentinel])
        os._exit(1)  # the parent was killed: nobody will read the results


@contextmanager
def _main_hidden(function: Callable[..., object]) -> Iterator[None]:
    """Keep new workers from running the user's script again: they import functions by name and need nothing of it."""
    if _module(function) == "__main__":
        yield
        return
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
