"""Where a figure was measured: versions and machine."""

from __future__ import annotations

import platform
import sys
from importlib.metadata import PackageNotFoundError, version

from danlu.base.execute import cores

PACKAGES = ("danlu", "numpy", "scikit-learn", "seqeval", "scipy")


def environment() -> dict[str, str | int]:
    """Versions of what computes, the machine and its threads; of torch and transformers only if they are in use."""
    used = [name for name in ("torch", "transformers") if name in sys.modules]
    found: dict[str, str | int] = {name: _version(name) for name in (*PACKAGES, *used)}
    torch = sys.modules.get("torch")
    threads = int(torch.get_num_threads()) if torch is not None else cores()
    return found | {"python": platform.python_version(), "machine": platform.machine(), "system": platform.system(), "threads": threads}


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
