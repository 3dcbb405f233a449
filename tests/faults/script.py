"""Run one of this folder's scripts as a user does. They fork, which a process that runs tests and has threads must not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]


def outcome_of(script: str, *arguments: str) -> dict[str, Any]:
    """The JSON object that a script prints at its end. Raises: AssertionError with what it said, if it failed."""
    command = [sys.executable, "-m", f"tests.faults.{script}", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found
