"""From bytes to text: UTF-8 first, then byte order marks, GB18030 and what charset-normalizer finds."""

from __future__ import annotations

import codecs

from charset_normalizer import from_bytes

from danlu.data.rows import BadRow

MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
SAMPLE_BYTES = 64 * 1024
COMMON_SHARE = 0.7  # of GB2312's lead bytes that stand for punctuation or one of its 3,755 most used characters


def decode(content: bytes) -> tuple[str, bool]:
    """The text, and whether it had to be transcoded from something that is not UTF-8.

    Raises: BadRow for binary content and for bytes that no known encoding explains.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        encoding, mark = detect(content)
        text = content[mark:].decode(encoding, errors="replace")
        if text.count("\ufffd") > len(text) // 1000:
            raise BadRow(f"bytes that are neither UTF-8 nor whole {encoding}") from None
        return text, True
    if "\0" in text:
        encoding, mark = detect(content)  # UTF-16 of plain English is valid UTF-8 too
        return content[mark:].decode(encoding, errors="replace"), True
    return text, False


def detect(content: bytes) -> tuple[str, int]:
    """The encoding of a text's beginning, and how many bytes its mark takes.

    Raises: BadRow when it looks binary or nothing fits.
    """
    for mark, encoding in MARKS:
        if content.startswith(mark):
            return encoding, len(mark)
    sample = content[:SAMPLE_BYTES]
    if b"\0" in sample:
        return _wide(sample), 0
    try:
        codecs.getincrementaldecoder("utf-8")().decode(sample)
        if len(sample) == len(content) and _is_utf8(content):
            return "utf-8", 0
        if len(sample) < len(content):
            return "utf-8", 0
    except UnicodeDecodeError:
        pass
    if _is_gb18030(sample):
        return "gb18030", 0
    best = from_bytes(sample).best()
    if best is None:
        raise BadRow("binary content, or text of an unknown encoding; expected UTF-8")
    return best.encoding, 0


def _is_utf8(content: bytes) -> bool:
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _wide(sample: bytes) -> str:
    """UTF-16 without a mark has its NUL bytes on one side only; anything else with NUL bytes is binary."""
    even, odd = sample[0::2].count(0), sample[1::2].count(0)
    half = len(sample) // 2
    for encoding, zeros, others in (("utf-16-le", odd, even), ("utf-16-be", even, odd)):
        if others == 0 and zeros > half // 100:
            try:
                text = codecs.getincrementaldecoder(encoding)().decode(sample)
            except UnicodeDecodeError:
                continue
            if sum(character.isprintable() or character.isspace() for character in text) > 0.98 * len(text):
                return encoding
    raise BadRow("binary content (NUL bytes); expected text")


def _is_gb18030(sample: bytes) -> bool:
    """Chinese in GB18030 consists nearly wholly of GB2312's common rows, which other encodings of Asia do not hit.

    charset-normalizer takes short Chinese texts for Big5 or a Korean code page, so this is asked first.
    """
    try:
        text = codecs.getincrementaldecoder("gb18030")().decode(sample)
    except UnicodeDecodeError:
        return False
    leads = [character.encode("gb18030") for character in text if character > "\x7f"]
    if not leads:
        return False
    common = sum(len(pair) == 2 and (0xA1 <= pair[0] <= 0xA3 or 0xB0 <= pair[0] <= 0xD7) and pair[1] >= 0xA1 for pair in leads)
    return common >= COMMON_SHARE * len(leads)
