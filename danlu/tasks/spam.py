"""Whether an e-mail was asked for."""

from __future__ import annotations

import email
import re
from collections.abc import Iterator
from email.errors import HeaderParseError
from email.header import decode_header, make_header
from email.message import Message
from html.parser import HTMLParser
from pathlib import Path

from danlu.data.fields import Row
from danlu.tasks.base import Task
from danlu.tasks.distinct import undivided

NO_LETTERS = re.compile(r"[\W\d_]+")
SAME_LETTERS = 500  # e-mails whose first so many letters agree are one: spam is sent again with other numbers and another end
UNSEEN = ("script", "style", "title")  # what a reader of an HTML page does not see


def read_mails(folder: Path) -> Iterator[Row]:
    """E-mails as they were shown to their reader, those of one group after the other, each once."""
    files = sorted(folder.glob("*/*.txt"))
    labelled = ((shown(file.read_bytes()), "spam" if file.parent.name.startswith("spam") else "ham") for file in files)
    yield from undivided(labelled, key=lambda text: NO_LETTERS.sub(" ", text.casefold())[:SAME_LETTERS])


def shown(raw: bytes) -> str:
    """The subject and the text of an e-mail, white space as single spaces, an HTML body without its tags.

    All other headers are left out: hosts and dates tell where an e-mail was collected, which is no answer to what it is.
    """
    message = email.message_from_bytes(raw)
    parts = {part.get_content_type(): part for part in reversed(list(message.walk())) if part.get_content_maintype() == "text"}
    plain = parts.get("text/plain")
    if plain is not None:  # a message without headers counts as nothing in an `if`
        body = _decoded(plain)
    else:
        page = _Page()
        page.feed("".join(_decoded(part) for part in parts.values()))
        page.close()
        body = " ".join(page.texts)
    return " ".join(f"{_subject(message)}\n{body}".split())


def _subject(message: Message) -> str:
    raw = str(message.get("Subject", ""))
    try:
        return str(make_header(decode_header(raw)))
    except (HeaderParseError, LookupError, UnicodeError, ValueError):  # a charset or an encoding that does not exist
        return raw


def _decoded(part: Message) -> str:
    content = part.get_payload(decode=True)
    assert isinstance(content, bytes), "a text part is not multipart"
    try:
        return content.decode(part.get_content_charset("latin-1"), errors="replace")
    except LookupError:
        return content.decode("latin-1")


class _Page(HTMLParser):
    """The texts of a page, in their order."""

    def __init__(self) -> None:
        super().__init__()
        self.texts, self.hidden = list[str](), ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.hidden = tag if tag in UNSEEN else self.hidden

    def handle_endtag(self, tag: str) -> None:
        self.hidden = "" if tag == self.hidden else self.hidden

    def handle_data(self, data: str) -> None:
        if not self.hidden:
            self.texts.append(data)


TASKS = (
    Task(
        name="spam-en",
        kind="classify",
        what="whether an English e-mail of 2002 or 2003 is spam, by its subject and text; most of those wanted are from mailing lists",
        source="spam-assassin",
        rows=read_mails,
        language="en",
        prompt="E-mail: {text}\nQuestion: Is this e-mail spam?\nAnswer:",
        words={"ham": "no", "spam": "yes"},
        citation="the SpamAssassin public mail corpus, 2002-2005",
    ),
)
