from __future__ import annotations

import pytest

from danlu.data.mdoc import inline


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("Fl a b", "-a -b"),
        ("Fl a Ar file", "-a file"),
        ("Fl", "-"),
        ("Fl v Ns Ar level", "-vlevel"),
        ("Op Fl o Ar file , .", "[-o file],."),
        ("Op Fl L Oo Ar host : Oc Ar port", "[-L [host:] port]"),
        ("Dq Sq a b", "“‘a b’”"),
        ("Xr ls 1 , Xr sh 1", "ls(1), sh(1)"),
        ("Fn main", "main()"),
        ("Fn open path flags ;", "open(path, flags);"),
        ("Pf ( Ar x )", "(x)"),
        ("Nm", "danlu"),
        ("Nm fetch", "fetch"),
        ("Nm Fl q", "danlu -q"),
        ("Ar", "file ..."),
        ("Em 一 二", "一 二"),
        ("Ux , Bx", "UNIX, BSD"),
        ("Xo", ""),
    ],
)
def test_macros_among_words(line: str, text: str) -> None:
    assert inline(line.split(), "danlu") == text
