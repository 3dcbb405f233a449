from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from danlu.data.examples import Examples
from danlu.tasks.parts import Part
from danlu.tasks.spam import read_mails, shown

MAIL = b"From a@b.c Thu Aug 22\nReceived: from somewhere\nSubject: =?utf-8?b?5L2g5aW9?=\n"
PAGE = b"<html><title>t</title><STYLE>p{}</STYLE><p>Buy&nbsp;it <b>now</b>!<script>1<2</script><br>Free</html>"
SHOWN = [
    (b"\nplain  text\n\nof two\n", "你好 plain text of two"),
    (b"Content-Type: text/html\n\n" + PAGE, "你好 Buy it now ! Free"),
    (b"Content-Type: text/plain; charset=no-such\n\ncaf\xe9\n", "你好 café"),
    (b"Content-Type: text/plain; charset=utf-8\nContent-Transfer-Encoding: base64\n\n5aW9\n", "你好 好"),
    (b"Content-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: text/html\n\n<p>page\n--x\n\nplain\n--x--\n", "你好 plain"),
    (b"Content-Type: image/png\n\n0000\n", "你好"),
]


@pytest.mark.parametrize(("rest", "text"), SHOWN)
def test_a_mail_is_what_its_reader_saw(rest: bytes, text: str) -> None:
    assert shown(MAIL + rest) == text


def test_a_subject_in_an_encoding_that_does_not_exist_stays_as_it_is() -> None:
    assert shown(b"Subject: =?no-such?b?5L2g5aW9?=\n\nbody") == "=?no-such?b?5L2g5aW9?= body"


def test_mails_that_begin_alike_are_one(tmp_path: Path) -> None:
    for name, text in {
        "spam-1/1": "Win 100!",
        "spam-2/1": "win 2,000",
        "easy-ham-1/1": "Lunch?",
        "easy-ham-1/2": "",
        "spam-2/2": "12",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / f"{name}.txt").write_text(f"Received: x\n\n{text}")
    assert list(read_mails(tmp_path)) == [{"text": "Lunch?", "label": "ham"}, {"text": "Win 100!", "label": "spam"}]


def test_the_real_mails_hold_no_headers(part_of: Callable[[str, Part], Examples]) -> None:
    found = part_of("spam-en", "test")
    assert found.labels == ("ham", "spam")
    assert Counter(record.label for record in found.records) == {"ham": 816, "spam": 345}  # type: ignore
    texts = [record.text for record in found.records]  # type: ignore
    assert sum("Received: from" in text for text in texts) < 10  # but for e-mails that quote others
    assert sum("<td" in text.lower() for text in texts) < 20  # but for pages that call themselves plain text
