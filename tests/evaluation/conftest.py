from __future__ import annotations

import functools
from collections.abc import Callable

import pytest

from danlu.data.examples import Examples
from danlu.tasks.loading import find_task
from danlu.tasks.parts import Part, read_part


@pytest.fixture(scope="session")
def part_of() -> Callable[[str, Part], Examples]:
    """A part of a task's real data, fetched where it is missing and read once for all tests."""
    return functools.cache(lambda name, part: read_part(find_task(name), (), part))
