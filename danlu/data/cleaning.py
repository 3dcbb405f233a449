"""Mends one text: wrong encodings, markup, line ends, control characters, Unicode normal form."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter

from ftfy import TextFixerConfig, fix_encoding
from ftfy.badness import MOJIBAKE_CATEGORIES, is_bad
from resiliparse.extract.html2text import extract_plain_text

# Only broken encodings are mended: ftfy's other fixes would make full-width Chinese punctuation half-width.
MENDING = TextFixerConfig(
    unescape_html=False, remove_terminal_escapes=False, fix_latin_ligatures=False, fix_character_width=False, uncurl_quotes=False,
    fix_line_breaks=False, remove_control_chars=False, normalization=None,
)  # fmt: skip
# ftfy's own pattern reads 2.4 million characters a second. All it finds holds a C1 control, one of these letters, or a sign from
# this choice of its categories next to a character of any of them, or one between some Cyrillic or Greek capitals: to ask that
# first is ten times as fast.
SIGNS = (
    "".join(MOJIBAKE_CATEGORIES[name] for name in ("bad", "law", "currency", "numeric", "upper_accented", "lower_accented", "box")) + "°Ù"
)
ANY = "".join(MOJIBAKE_CATEGORIES.values()) + "≈√†"
SUSPECT = re.compile(f"[\x80-\x9fŒœÃÂЂў]|[{SIGNS}][{ANY}]|[{ANY}][{SIGNS}]|[ВГРСΒΓΞΟ][{ANY}][ВГРСΒΓΞΟ]")
# Each of its matches holds one of these, which most texts lack, and a plain set is five times as fast to look for.
RARE = re.compile(f"[{SIGNS}\x80-\x9fŒœÃÂЂўВГРСΒΓΞΟ]")
ASCII_CONTROLS = bytes([*range(9), *range(14, 32), 127])  # all but tab and what ends a line
CONTROL = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x9f\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff]")
LINE_ENDS = ("\r\n", "\r", "\x0b", "\x0c", "\x85", "\u2028", "\u2029")
TAG = "html|body|div|p|span|table|article|section|h[1-6]|ul|ol"
PAGE = re.compile(rf"\s*(?:<\?xml[^>]*>\s*)?<(?:!doctype\s+html|head|{TAG})\b", re.IGNORECASE)
CLOSING = re.compile(rf"</(?:{TAG})\s*>", re.IGNORECASE)


def clean(text: str, counts: Counter[str], *, html: bool = False) -> str:
    """The text as it is kept; `counts` is told how many texts each step changed.

    No step drops a document: a text without content comes back empty.
    """
    if html or is_page(text):
        text = extract_plain_text(text, main_content=False, alt_texts=False, preserve_formatting=True)
        counts["markup_removed"] += 1
    if not text.isascii():
        text = _mend(text, counts)
    for end in LINE_ENDS:
        if end in text:
            text = text.replace(end, "\n")
    freed = _without_controls(text)
    if len(freed) < len(text):
        counts["control_characters_removed"] += 1
    if not freed.isascii() and not unicodedata.is_normalized("NFC", freed):
        freed = unicodedata.normalize("NFC", freed)
        counts["unicode_normalised"] += 1
    return freed.strip()


def is_page(text: str) -> bool:
    """Whether a text is HTML: begins with a tag of a page and closes one somewhere."""
    return PAGE.match(text) is not None and CLOSING.search(text) is not None


def _without_controls(text: str) -> str:
    if text.isascii():  # twenty times as fast as the pattern
        return text.encode("ascii").translate(None, ASCII_CONTROLS).decode("ascii")
    return CONTROL.sub("", text) if CONTROL.search(text) else text


def _mend(text: str, counts: Counter[str]) -> str:
    """Mend lines whose characters betray a wrong decoding (`schÃ¶n`); others are not touched."""
    rare = RARE.search(text)
    if rare is None or not SUSPECT.search(text, max(rare.start() - 1, 0)):
        return text
    lines = text.split("\n")
    mended = [fix_encoding(line, MENDING) if SUSPECT.search(line) and is_bad(line) else line for line in lines]
    if mended != lines:
        counts["encoding_mended"] += 1
    return "\n".join(mended)
