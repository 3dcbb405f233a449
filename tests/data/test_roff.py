from __future__ import annotations

import gzip
import re
import shutil
import subprocess
import time
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

from danlu.base.fetching import path_of
from danlu.data.chunks import Cleaning, CleanTask, clean_chunk
from danlu.data.prepared import open_prepared
from danlu.data.reading import read_chunks
from danlu.data.roff import plain_text
from danlu.data.sources import find_files
from danlu.inputs.tokenizer import Tokenizer
from danlu.recipes.prepare import prepare

PAGE = r"""'\" t
.\" a comment
.TH 炼丹 1 2026-11-25 "Danlu 1.0" 用户命令
.SH 名称
danlu \- 从文字到模型 \" and a comment behind
.SH "SEE ALSO"
.BR danlu (1),
.I fetch
把文字变成
模型。
Two lines
are one.
.PP
A new paragraph
.br
and a new line.
.TP
\fB\-\-out\fR \fIDIR\fR
放在哪里
.TP
.BI \-\-seed= N
.PD 0
从哪里开始
.IP \(bu 2
first
.IP "2." 4
second
.IP word 4
third
.nf
  code   stays
    as it is
.sp
\&.profile

.fi
flows
again
.so man1/other.1
.ad l
"""

TEXT = """炼丹(1)

名称

danlu - 从文字到模型

SEE ALSO

danlu(1), fetch 把文字变成模型。 Two lines are one.

A new paragraph
and a new line.

--out DIR
放在哪里

--seed=N
从哪里开始

• first

2. second

word
third

  code   stays
    as it is

.profile

flows again"""


def test_a_page_becomes_paragraphs() -> None:
    assert plain_text(PAGE) == TEXT


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        (r"\fBbold\fR \f(CWcode\fP \f[I]x\f[] \s-1SMALL\s0 \s+2x\s12y", "bold code x SMALL xy"),
        (r"a\-b\ c\~d\0e\&f\|g\^h\e\\i", "a-b c d efgh\\\\i"),
        (r"\(bu \(em \(lq\(rq \(co \(de \(+- \(>= \[lq]\[rs]\[dq] \(*a\(*W", '• — “” © ° ± ≥ “\\" αΩ'),
        (r"\('e \(:U \[~n] \[u4E2D] \[u0065_0301] \N'65'", "é Ü ñ 中 é A"),
        (r"a\h'2n'b\v'-1'c\w'xyz'd\l'3n\(ul'e\o'f'g", "abcdefg"),
        (r"a\nXb\n(YYc\n[ZZ]d\kxe\m[red]f\$1g", "abcdefg"),
        (r"\(zz\[nosuch]\[uD800]\[u110000]x\>y", "x>y"),
        ("one \\\ntwo", "one two"),
        ("glu\\c\ned \\c\n.B on", "glued on"),
        (".B a \"b c\" d\\ e \"say \"\"hi\"\"\"", 'a b c d e say "hi"'),
        (".BR a \" b\" c\n.RI [ x ]", "a bc [x]"),
        (".ds CO 炼\\(bu\n\\*(CO \\*[CO] \\*x\\*(lqq\\*(rq", "炼• 炼• “q”"),
        (".de XX\n.B dropped\n..\n.de YY END\n..\n.END\n.ig\nignored\n..\n.XX\nkept", "kept"),
        (".ie n terminal\n.el paper", "terminal"),
        (".ie t paper\n.el terminal", "terminal"),
        (".if t \\{\\\npaper\n.if n \\{ more \\}\n.\\}\n.if n \\{\\\n.B bold\n.\\}\nkept", "bold kept"),
        (".ie \\n(.g .ds Aq \\(aq\n.el .ds Aq ’\nit\\*(Aqs", "it's"),
        (".if !\\nF .if n yes", "yes"),
        (".SH\n标题\n正文", "标题\n\n正文"),
        (".TP\n.B a\n.TQ\n.B b\nboth", "a\nb\nboth"),
        (".UR http://a.b\nhere\n.UE ,\n.URL http://c.d there .", "here <http://a.b>, there <http://c.d>."),
        (".EQ\nx over y\n.EN\nkept", "kept"),
        ("'quoted' at the start\n.'", "'quoted' at the start"),
        ("first\n  indented", "first\nindented"),
        ("a\n\n\nb", "a\n\nb"),
        (
            ".TS\ntab(@);\nl l.\n名@\\fBvalue\\fR\n_\nT{\na long\n.B cell\nT}@2\n.T&\nr r.\n3@4\n.TE\nafter",
            "名 | value\na long cell | 2\n3 | 4\n\nafter",
        ),
        (".SY danlu\n.OP \\-x file\n.YS\nend", "danlu [-x file]\n\nend"),
        ("\r\n.SH A\r\nb\r\n", "A\n\nb"),
        ("", ""),
        (".de never\nends", ""),
    ],
)  # fmt: skip
def test_markup(markup: str, text: str) -> None:
    assert plain_text(markup) == text


BSD = """.Dd November 25, 2026
.Dt DANLU 1
.Os
.Sh NAME
.Nm danlu
.Nd forge of models
.Sh SYNOPSIS
.Nm
.Op Fl abc
.Op Fl o Ar file Ns = Ns Ar x
.Ar
.Sh DESCRIPTION
The
.Nm
utility, see
.Xr ls 1 ,
.Dq quoted words .
.Bl -tag -width indent
.It Fl v Ns Ar level
说得
更多
.It Xo
.Fl q
.Xc
Quiet.
.El
.Pp
.Fn main "int argc" "char **argv" ;
.Pf ( Pa /etc/danlu )
.Bd -literal
  code
.Ed
.Bk -words
On
.Ux
and
.Bx .
"""


def test_mdoc_becomes_paragraphs() -> None:
    assert plain_text(BSD) == (
        "DANLU(1)\n\nNAME\n\ndanlu – forge of models\n\nSYNOPSIS\n\ndanlu [-abc] [-o file=x] file ...\n\nDESCRIPTION\n\n"
        "The danlu utility, see ls(1), “quoted words”.\n\n-vlevel\n说得更多\n\n-q Quiet.\n\n"
        "main(int argc, char **argv); (/etc/danlu)\n\n  code\n\nOn UNIX and BSD."
    )


ABSURD = {
    "brackets that never close": "\\[" * 500_000,
    "quotes that never close": "\\h'" * 500_000,
    "conditions on one line": ".if n " * 200_000 + "x",
    "options in options": ".Op " + "Op " * 300_000,
    "cells that never end": ".TS\nl.\n" + "T{\n" * 300_000,
    "arguments without end": '.B "' + '"" ' * 300_000,
    "one paragraph": "word\n" * 300_000,
    "backslashes": "\\" * 1_000_000,
    "strings of strings": "".join(f".ds {name} " + f"\\*{before}" * 30 + "\n" for before, name in pairwise("abcdefgh")) + "\\*h" * 1000,
    "blocks in blocks": ".if t \\{\n" * 200_000,
}


@pytest.mark.parametrize("what", ABSURD)
def test_absurd_pages_take_no_time_and_no_room(what: str) -> None:
    started = time.monotonic()
    assert len(plain_text(ABSURD[what])) < 3_000_000
    assert time.monotonic() - started < 10


@cache
def real() -> dict[str, tuple[bytes, str]]:
    """Every page of the package: its bytes, and its text."""
    files = sorted(path_of("manpages-zh").rglob("*.gz"))
    pages = {file.name.removesuffix(".gz"): gzip.decompress(file.read_bytes()) for file in files}
    return {name: (content, plain_text(content.decode())) for name, content in pages.items()}


MACRO = re.compile(
    r"^\.(?:TH|SH|SS|PP|LP|TP|IP|B|I|BR|BI|IR|RB|nf|fi|RS|br|sp|so|Sh|Bl|Op|Pp) ?$|^\.(?:TH|SH|SS|TP|IP|B|BR) [^（]*$", re.MULTILINE
)
ABOUT_MARKUP = ("man.7", "mdoc.7", "mdoc.samples.7", "roff.7", "groff.7", "ms.7")  # whose subject are macros
FONT = re.compile(r"\\f[BIRP]|\\f\(|\\\((?:bu|em|lq|rq|co)|\\\*\(")


def test_real_pages_are_chinese_text_without_markup() -> None:
    assert len(real()) == 703
    assert all(text.strip() for _, text in real().values())
    # A few pages indent a macro, or double a backslash where they mean one: groff prints these too.
    left = [found for name, (_, text) in real().items() if name not in ABOUT_MARKUP for found in MACRO.findall(text)]
    assert len(left) < 4, left
    whole = "".join(text for _, text in real().values())
    assert len(FONT.findall(whole)) < 20
    assert sum("\u4e00" <= character <= "\u9fff" for character in whole) > 0.3 * len(whole)


WORD = re.compile(r"[\u4e00-\u9fff]|[A-Za-z]{2,}")


@pytest.mark.skipif(shutil.which("groff") is None, reason="groff is not on this machine")
def test_the_words_are_those_that_groff_sets() -> None:
    """Every twentieth page; groff repeats the title at the head and foot of a page, which is its only surplus that is meant."""
    missing = surplus = total = 0
    for content, text in list(real().values())[::20]:
        command = ["groff", "-Tutf8", "-mandoc", "-t", "-Kutf8", "-P-cbou", "-rLL=300n", "-rHY=0"]
        theirs = Counter(WORD.findall(subprocess.run(command, input=content, capture_output=True, timeout=60).stdout.decode()))
        ours = Counter(WORD.findall(text))
        missing += (theirs - ours).total()
        surplus += (ours - theirs).total()
        total += theirs.total()
    assert total > 20_000
    assert surplus < 0.002 * total and missing < 0.02 * total


def test_the_package_is_prepared_by_its_name(tmp_path: Path) -> None:
    prepare("manpages-zh", out=tmp_path / "out", vocabulary_size=512, workers=1)
    made = open_prepared(tmp_path / "out")
    assert made.bytes("train") > 3_000_000
    text = Tokenizer.load(made.tokenizer_folder).decode(made.split("train")[0][:2000])
    assert "名" in text and "\\f" not in text and ".SH" not in text


def test_gb18030_is_read_as_well(tmp_path: Path) -> None:
    folder = tmp_path / "man1"
    folder.mkdir()
    (folder / "a.1").write_bytes(PAGE.encode("gb18030"))
    (folder / "b.1x").write_bytes(b"x")
    files = find_files([str(tmp_path)])
    assert [file.name for file in files] == [f"{tmp_path.name}/man1/a.1"]
    task = CleanTask(chunk=next(read_chunks(files)), cleaning=Cleaning(), path=tmp_path / "chunk", names={0: "a.1"})
    done = clean_chunk(task)
    assert (done.counts["transcoded"], done.counts["documents_in"]) == (1, 1)
    assert TEXT.encode() in (tmp_path / "chunk").read_bytes()
