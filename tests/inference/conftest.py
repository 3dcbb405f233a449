from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from danlu.inference.model import Model, load

from .tiny import write_tiny


@pytest.fixture(autouse=True, scope="package")
def _one_thread() -> Iterator[None]:
    """Small matrices are quickest on one thread, above all where others use the processor too."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Iterator[Model]:
    with load(str(tiny_folder)) as loaded:
        yield loaded
