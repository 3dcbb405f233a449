"""Which builds of native/ this processor can run."""

from __future__ import annotations

import importlib.machinery
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from danlu.base.errors import ConfigError

# Builds of one source, the fastest first, with what torch calls the instructions that each needs.
BUILDS = {
    "amx": ("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16"),
    "avx512_bf16": ("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl", "avx512_vnni", "avx512_bf16"),
    "avx512": ("avx512_f", "avx512_bw", "avx512_dq", "avx512_vl", "avx512_vnni"),
    "avx2": ("avx2", "fma3"),
    "plain": (),
}


def built(source: str, beside: str) -> Iterator[tuple[str, Path]]:
    """The builds of native/`source`.cpp that lie beside this module and that this processor can run, the fastest first."""
    can: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    for name, needs in BUILDS.items():
        if all(can.get(need) for need in needs):
            files = (Path(beside).with_name(f"_{source}_{name}{suffix}") for suffix in importlib.machinery.EXTENSION_SUFFIXES)
            yield from ((name, file) for file in files if file.is_file())


def outdated(file: Path) -> ConfigError:
    """What to raise for a build whose functions take something else than this version gives them."""
    return ConfigError(f"{file.name} was built from another version of Danlu; build it again: pip install --force-reinstall danlu")
