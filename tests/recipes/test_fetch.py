from __future__ import annotations

import json
from pathlib import Path

import pytest

from danlu.base.catalog import entries, find
from danlu.base.errors import ConfigError
from danlu.base.packages import download
from danlu.recipes.fetch import fetch


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DANLU_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_the_list_shows_every_name_with_licence_and_sizes(capsys: pytest.CaptureFixture[str], home: Path) -> None:
    report = fetch(list=True)
    shown = capsys.readouterr().out
    for entry in entries().values():
        row = next(line for line in shown.splitlines() if entry.name in line.split())
        assert entry.kind in row.split() and " no " in row
        assert entry.licence.split()[0].rstrip(",") in row
    assert "0 B of it cached" in shown and str(home) in shown
    assert report["size_bytes"] == sum(entry.size_bytes for entry in entries().values())


def test_the_list_as_json_is_the_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    fetch(list=True, json=True)
    report = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert [row["name"] for row in report["entries"]] == [*entries()]
    assert all({"kind", "licence", "owner", "sha256", "version", "size_bytes", "cached"} <= row.keys() for row in report["entries"])


def test_what_was_fetched_is_printed_and_listed_as_cached(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    archive = download(find("wikipedia-leads"), tmp_path / "elsewhere")[0]
    fetch("wikipedia-leads", source=archive)
    printed = capsys.readouterr()
    assert Path(printed.out.strip()).is_file() and "CC-BY-SA-4.0" in printed.err
    fetch("wikipedia-leads", verify=True, json=True)
    assert json.loads(capsys.readouterr().out)["fetched"][0]["was_cached"]
    cached = {row["name"] for row in fetch(list=True, json=True)["entries"] if row["cached"]}
    assert cached == {"wikipedia-leads"}


def test_flags_that_make_no_sense_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="danlu fetch --list"):
        fetch()
    with pytest.raises(ConfigError, match="say what to fetch"):
        fetch("wikipedia-leads", list=True)
    with pytest.raises(ConfigError, match="one name at a time, got 2"):
        fetch("wikipedia-leads", "minilm-l6", source=tmp_path)
    with pytest.raises(ConfigError, match="there is no such file"):
        fetch("wikipedia-leads", source=tmp_path / "nothing")
    with pytest.raises(ConfigError, match="takes archives of catalog entries only"):
        fetch("hf:tiny/llama", source=tmp_path)
    with pytest.raises(ConfigError, match="did you mean minilm-l6"):
        fetch("minilm-l12")
