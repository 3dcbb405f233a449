from __future__ import annotations

import signal

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """A process that shares the tests with others ignores Ctrl-C, and so would all that it starts: tests that send it need it heard."""
    if hasattr(config, "workerinput"):
        signal.signal(signal.SIGINT, signal.default_int_handler)
