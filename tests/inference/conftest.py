from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from danlu.inference.model import Model, load
from tests.threads import one_thread

from .tiny import write_tiny

__all__ = ["one_thread"]


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def model(tiny_folder: Path) -> Iterator[Model]:
    with load(str(tiny_folder)) as loaded:
        yield loaded
