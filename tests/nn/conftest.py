"""Every build of native/layers.cpp that this machine can run, one after the other."""

from __future__ import annotations

from typing import Any

import pytest

from danlu.base.builds import built
from danlu.nn import native

BUILDS = dict(built("layers", native.__file__))


@pytest.fixture(params=BUILDS or [pytest.param("none", marks=pytest.mark.skip(reason="no kernels were built here"))])
def build(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    library = native.opened(str(BUILDS[request.param]))
    if request.param == "amx" and not library.tiled:
        pytest.skip("the system keeps the tiles to itself")
    monkeypatch.setattr(native, "_library", lambda: library)
    return library
