from __future__ import annotations

import operator
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from danlu.base import execute
from danlu.base.errors import DanluError


def test_results_come_in_the_order_of_the_items() -> None:
    assert list(execute.map(operator.neg, range(50), workers=2)) == [-number for number in range(50)]


def test_other_processes_do_the_work() -> None:
    found = set(execute.map(os.getenv, ["DANLU_NOT_SET", "HOME"], workers=2))
    assert found == {None, os.environ.get("HOME")}


def test_only_a_few_items_are_taken_in_advance() -> None:
    taken = []

    def endless():  # type: ignore[no-untyped-def]
        number = 0
        while True:
            taken.append(number)
            yield number
            number += 1

    results = execute.map(operator.neg, endless(), workers=2)
    for expected in range(10):
        assert next(results) == -expected
        assert len(taken) <= expected + 2 * execute.AHEAD + 3
    results.close()  # type: ignore[attr-defined]


def test_one_item_stays_in_this_process() -> None:
    children = len(psutil.Process().children())
    assert list(execute.map(operator.neg, [4], workers=8)) == [-4]
    assert len(psutil.Process().children()) == children


def test_what_the_function_raises_comes_out() -> None:
    with pytest.raises(TypeError):
        list(execute.map(operator.neg, [1, "two", 3], workers=2))


def test_a_killed_worker_is_told_in_one_line() -> None:
    with pytest.raises(DanluError, match="worker process was killed") as caught:
        list(execute.map(os._exit, [1, 1, 1], workers=2))
    assert "\n" not in str(caught.value)


def test_a_script_without_a_guard_is_not_run_again_by_its_workers(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "import operator\nfrom danlu.base import execute\nprint('begin')\nprint(list(execute.map(operator.neg, range(5), workers=2)))\n"
    )
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, env=_environment())
    assert done.stdout.splitlines() == ["begin", "[0, -1, -2, -3, -4]"], done.stderr


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    code = "import time\nfrom danlu.base import execute\nlist(execute.map(time.sleep, [0.01, 0.01, 600, 600], workers=2))\n"
    parent = psutil.Popen([sys.executable, "-c", code], env=_environment())
    deadline = time.monotonic() + 30
    workers: list[psutil.Process] = []
    while len(workers) < 3 and time.monotonic() < deadline:  # the server and two of its own
        time.sleep(0.05)
        workers = [child for child in parent.children(recursive=True) if "forkserver" in " ".join(child.cmdline())]
    time.sleep(0.3)
    parent.kill()
    parent.wait(10)
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert len(workers) >= 3
    assert not alive


def _environment() -> dict[str, str]:
    root = Path(execute.__file__).parents[2]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), os.environ.get("PYTHONPATH", "")])}
