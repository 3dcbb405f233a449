"""Manual pages to plain text: paragraphs as a reader sees them, without what only concerns layout."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from danlu.data.mdoc import CLOSING, MDOC, inline
from danlu.inputs.spacing import between

MOST_CONDITIONS = 8  # on one line
LONGEST_STRING = 64  # characters of a page's own abbreviation: nesting them must not make a small page a giant one
CONTINUED = re.compile(r"(?<!\\)((?:\\\\)*)\\\n")
COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)\\[\"#].*")
REQUEST = re.compile(r"[.'][ \t]*([^\s\\\"]*)[ \t]*(.*)")
ARGUMENT = re.compile(r'"((?:[^"]|"")*)"?|((?:\\.|[^\s"\\])(?:\\.|[^\s\\])*)')
CONDITION = re.compile(r"(!?)(\([^()]*\)|'[^']{0,99}'[^']*'|\"[^\"]*\"[^\"]*\"|\\n\(..\S*|[nt](?=\s)|\S+)\s*(.*)")
TRUE = ("n", "o", "\\n(.g", "\\n[.g]", "1")  # of the conditions that pages ask: a terminal, and groff
BULLET = re.compile(r"[^\w\s-]|[-o]|\(?\w{1,2}[.)]|\[\d+\]")
TABLE_TAB = re.compile(r"\btab\s*\((.)\)")
IN_TABLE = re.compile(r"[.'][A-Za-z]+ ?")

ESCAPE = re.compile(
    r"""\\(?:
    \*(?:\((?P<string2>..)|\[(?P<string>[^]]{0,99})\]|(?P<string1>[!-~])) |
    \((?P<special>[!-~]{2}) | \[(?P<named>[^]\s]{0,99})\] |
    N'(?P<number>\d{1,6})' | o'(?P<over>[^']{0,99})' |
    s(?:[-+]\d | [123]\d | \d | \([ -~]{2} | \[[^]]{0,99}\] | '[^']{0,99}') |
    [hvwlLDbXZAxHSRBC](?:'[^']{0,99}'|"[^"]{0,99}") |
    [fFmMnkgVY$][-+]?(?:\([!-~]{2} | \[[^]]{0,99}\] | [!-~])? |
    (?P<one>.) | $)""",
    re.VERBOSE | re.DOTALL,
)
ONE = {"-": "-", " ": " ", "~": " ", "0": " ", "e": "\\", "E": "\\", "t": "\t"} | dict.fromkeys("&)/,^|%:{}cdpruz!a", "")
SPECIAL = {
    "bu": "•", "em": "—", "en": "–", "hy": "-", "lq": "“", "rq": "”", "oq": "‘", "cq": "’", "aq": "'", "dq": '"', "Bq": "„", "bq": "‚",
    "Fo": "«", "Fc": "»", "fo": "‹", "fc": "›", "co": "©", "rg": "®", "tm": "™", "de": "°", "+-": "±", "mu": "×", "di": "÷", ">=": "≥",
    "<=": "≤", "!=": "≠", "==": "≡", "->": "→", "<-": "←", "<>": "↔", "ua": "↑", "da": "↓", "rA": "⇒", "bv": "|", "br": "|", "ba": "|",
    "or": "|", "ul": "_", "ru": "_", "rn": "‾", "sl": "/", "rs": "\\", "ti": "~", "ha": "^", "ga": "`", "aa": "´", "dg": "†", "dd": "‡",
    "sc": "§", "ps": "¶", "ss": "ß", "ae": "æ", "AE": "Æ", "oe": "œ", "OE": "Œ", "/o": "ø", "/O": "Ø", "oa": "å", "oA": "Å", "pd": "∂",
    "if": "∞", "mc": "µ", "12": "½", "14": "¼", "34": "¾", "S1": "¹", "S2": "²", "S3": "³", "fm": "′", "ct": "¢", "Po": "£", "Ye": "¥",
    "Eu": "€", "eu": "€", "r!": "¡", "r?": "¿", "lB": "[", "rB": "]", "lC": "{", "rC": "}", "la": "⟨", "ra": "⟩", "ci": "○", "sq": "□",
    "pl": "+", "mi": "−", "eq": "=", "**": "*", "ap": "~", "~~": "≈", "no": "¬", "is": "∫", "sr": "√", "at": "@", "sh": "#", "Do": "$",
    "nu": "ν", "OK": "✓", "lh": "☜", "rh": "☞",
}  # fmt: skip
# groff's letters for the Greek alphabet, in its order; the final sigma stands before the other in Unicode
SPECIAL |= {f"*{name}": letter for name, letter in zip("abgdezyhiklmncoprstufxqw", "αβγδεζηθικλμνξοπρστυφχψω", strict=True)}
SPECIAL |= {f"*{name}": letter for name, letter in zip("ABGDEZYHIKLMNCOPRSTUFXQW", "ΑΒΓΔΕΖΗΘΙΚΛΜΝΞΟΠΡΣΤΥΦΧΨΩ", strict=True)}
ACCENTS = {"'": "\u0301", "`": "\u0300", "^": "\u0302", ":": "\u0308", "~": "\u0303", ",": "\u0327", "v": "\u030c"}
STRINGS = {"lq": "“", "rq": "”", "Aq": "'", "R": "®", "Tm": "™", "--": "—", 'L"': '"', 'R"': '"', "C`": '"', "C'": '"', "PI": "π"}

HEADINGS = ("SH", "SS", "Sh", "Ss")
PARAGRAPHS = ("PP", "P", "LP", "HP", "sp", "Sp", "Pp", "RS", "RE", "YS", "El", "BS", "BE")
LINE_BREAKS = ("br", "in", "ti", "ce")
FONTS = ("B", "I", "SM", "SB", "R", "CW")
ALTERNATING = ("BR", "BI", "IR", "IB", "RB", "RI", "UL")
VERBATIM, FILLED = ("nf", "EX", "Vb", "CS", "DS"), ("fi", "EE", "Ve", "CE", "DE", "Ed")
SKIPPED = {"de": ".", "de1": ".", "am": ".", "ig": ".", "EQ": "EN", "PS": "PE"}  # what begins it -> the request that ends it

# what an apostrophe at the start of a line may begin; other such lines are text
KNOWN = {"if", "ie", "el", "ds", "TS", *SKIPPED, *HEADINGS, *PARAGRAPHS, *LINE_BREAKS, *FONTS, *ALTERNATING, *VERBATIM, *FILLED}
KNOWN |= {"TH", "TP", "TQ", "IP", "ad", "na", "ne", "nr", "ft", "ta", "bp", "so", "mk", "ev", "hy", "nh"}


def plain_text(page: str) -> str:
    """The text of a page in man(7) or mdoc(7): paragraphs with an empty line between, headings and code as paragraphs of their own.

    Source: the manuals groff(7), groff_char(7), groff_man(7), tbl(1) and mdoc(7).
    """
    reader = _Reader()
    lines = iter(CONTINUED.sub(r"\1", page.replace("\r\n", "\n")).split("\n"))
    for line in lines:
        reader.take(line, lines)
    reader.end_paragraph()
    return "\n\n".join(reader.paragraphs)


class _Reader:
    def __init__(self) -> None:
        self.paragraphs: list[str] = []
        self.lines: list[str] = []  # of the paragraph that is being read
        self.words: list[str] = []  # of its last line, which may go on
        self.is_verbatim = self.is_glued = self.is_heading = self.is_tag = self.was_true = False
        self.strings = dict(STRINGS)
        self.name = self.link = ""

    def take(self, line: str, lines: Iterator[str]) -> None:
        """Read one line; a request may read on in `lines`."""
        rest: str | None = COMMENT.sub(r"\1", line)
        for _ in range(MOST_CONDITIONS):
            if rest is None:
                return
            found = REQUEST.fullmatch(rest)
            if not found or not (rest[0] == "." or found[1] in KNOWN or not found[1]):
                self.add(self.escaped(rest), is_glued=rest.endswith("\\c"))
                return
            if found[1] not in ("if", "ie", "el"):
                self.request(found[1], found[2], lines)
                return
            rest = self.branch(found[1], found[2], lines)

    def branch(self, name: str, rest: str, lines: Iterator[str]) -> str | None:
        """What is read if a condition holds; if it does not, its line or block is skipped."""
        holds = not self.was_true
        if name != "el" and (found := CONDITION.match(rest)):
            holds, rest = (found[2] in TRUE) != (found[1] == "!"), found[3]
            self.was_true = holds
        if holds:
            return rest.removeprefix("\\{").strip(" \\") or None
        depth = rest.count("\\{") - rest.count("\\}")
        while depth > 0 and (line := next(lines, None)) is not None:
            depth += line.count("\\{") - line.count("\\}")
        return None

    def request(self, name: str, rest: str, lines: Iterator[str]) -> None:
        """Do what a request or macro says; one that is not known concerns layout."""
        if name in SKIPPED:
            words = rest.split()
            end = words[1] if name in ("de", "de1", "am") and len(words) > 1 else SKIPPED[name]
            while (line := next(lines, None)) is not None and line[1:].strip() != end:
                pass
        elif name == "TS":
            self.table(lines)
        elif name == "ds":
            key, _, value = rest.partition(" ")
            self.strings[key] = self.escaped(value.strip().removeprefix('"'))[:LONGEST_STRING]
        else:
            found = ARGUMENT.findall(rest)
            arguments = [self.escaped(bare or quoted.replace('""', '"')) for quoted, bare in found]
            self.macro(name, arguments, is_glued=rest.endswith("\\c"))

    def macro(self, name: str, arguments: list[str], is_glued: bool) -> None:
        """Set the text that a macro has in its arguments."""
        text = " ".join(arguments)
        if name in HEADINGS:
            self.end_paragraph(is_verbatim=False)
            self.is_heading = not text
            self.paragraphs += [text] if text else []
        elif name in ("TH", "Dt") and text:
            self.paragraphs.append(f"{arguments[0]}({arguments[1]})" if len(arguments) > 1 else text)
        elif name in PARAGRAPHS:
            self.end_paragraph()
        elif name in LINE_BREAKS:
            self.end_line()
        elif name in ("TP", "TQ"):
            self.end_paragraph(is_verbatim=False) if name == "TP" else self.end_line()
            self.is_tag = True
        elif name in ("IP", "Ip", "It"):
            self.end_paragraph(is_verbatim=False)
            tag = inline(arguments, self.name) if name == "It" else "".join(arguments[:1])
            self.add(tag)
            if not BULLET.fullmatch(tag):
                self.end_line()
        elif name in VERBATIM or (name == "Bd" and {"-literal", "-unfilled"} & set(arguments)):
            self.end_paragraph(is_verbatim=True)
        elif name in FILLED:
            self.end_paragraph(is_verbatim=False)
        elif name in ("SY", "AP"):
            self.end_paragraph(is_verbatim=False)
            self.add(text)
        elif name in ("UR", "MT"):
            self.link = text
        elif name in ("UE", "ME"):
            self.add(f"<{self.link}>{text}")
        elif name == "URL" and text:
            self.add(" ".join([*arguments[1:2], f"<{arguments[0]}>"]) + "".join(arguments[2:]))
        elif name == "OP" and text:
            self.add(f"[{text}]" if len(arguments) < 3 else ", ".join(arguments))
        elif name in FONTS and text:
            self.add(text, is_glued)
        elif name in ALTERNATING and text:
            self.add("".join(arguments), is_glued)
        elif name in MDOC:
            self.name = self.name or (arguments[0] if name == "Nm" and arguments else "")
            if said := inline([name, *arguments], self.name):
                self.is_glued = self.is_glued or (bool(self.words) and said[0] in CLOSING)
                self.add(said, is_glued)

    def table(self, lines: Iterator[str]) -> None:
        """One line for each row of a table, its cells with a bar between."""
        self.end_paragraph(is_verbatim=False)
        tab, is_format, is_cell, parts = "\t", True, False, list[str]()
        for line in lines:
            if line.startswith(".TE"):
                break
            line = COMMENT.sub(r"\1", line)
            if is_format or line.startswith(".T&"):
                tab = found[1] if (found := TABLE_TAB.search(line)) else tab
                is_format = not line.rstrip().endswith(".")
                continue
            line = IN_TABLE.sub("", line)
            if is_cell and not line.startswith("T}"):  # a cell of several lines
                parts += [" ", line]
                continue
            is_cell = line.endswith("T{")
            parts += [line.removeprefix("T}").removesuffix("T{"), "" if is_cell else "\n"]
        for row in "".join(parts).split("\n"):
            cells = [self.escaped(cell).strip() for cell in row.split(tab)]
            if any(cell.strip("_=-") for cell in cells):
                self.lines.append(" | ".join(cells))
        self.end_paragraph()

    def add(self, text: str, is_glued: bool = False) -> None:
        """Set a line of text, filled up or, in code, as it stands; `is_glued` if the next one continues its last word."""
        if self.is_verbatim and not (self.is_heading or self.is_tag):
            self.words.append(text.rstrip())
            if not is_glued:
                self.lines.append("".join(self.words))
                self.words.clear()
            return
        if not text.strip():
            self.end_paragraph()
            return
        if text[0].isspace() and not self.is_glued:
            self.end_line()
        if self.words and not self.is_glued:
            self.words.append(between(self.words[-1][-1:], text.lstrip()[:1]))
        text = text if self.is_glued else text.lstrip()
        self.words.append(text if is_glued else text.rstrip())
        self.is_glued = is_glued
        if self.is_heading and not is_glued:
            self.end_paragraph()
        elif self.is_tag and not is_glued:
            self.end_line()

    def end_line(self) -> None:
        """What comes next begins a line of its own."""
        if line := "".join(self.words).rstrip():
            self.lines.append(line)
        self.words.clear()
        self.is_tag = self.is_glued = False

    def end_paragraph(self, is_verbatim: bool | None = None) -> None:
        """End what is being read; what comes next is code or not, or goes on as before."""
        self.end_line()
        whole = "\n".join(self.lines).strip("\n")
        self.paragraphs += [whole] if whole.strip() else []
        self.lines.clear()
        self.is_heading = False
        if is_verbatim is not None:
            self.is_verbatim = is_verbatim

    def escaped(self, text: str) -> str:
        """A text with its escape sequences made characters, or nothing."""
        return ESCAPE.sub(self.character, text) if "\\" in text else text

    def character(self, found: re.Match[str]) -> str:
        """What one escape sequence stands for."""
        name = found["string2"] or found["string"] or found["string1"]
        if name:
            return self.strings.get(name, "")
        if found["number"]:
            return _by_code(int(found["number"]))
        if found["over"]:
            return self.escaped(found["over"])
        if found["one"]:
            return ONE.get(found["one"], found["one"])
        return _special(found["special"] or found["named"] or "")


def _special(name: str) -> str:
    if name in SPECIAL:
        return SPECIAL[name]
    if len(name) == 2 and name[0] in ACCENTS:
        return unicodedata.normalize("NFC", name[1] + ACCENTS[name[0]])
    if re.fullmatch(r"u[0-9A-F]{4,6}(?:_[0-9A-F]{4,6})*", name):
        return unicodedata.normalize("NFC", "".join(_by_code(int(code, 16)) for code in name[1:].split("_")))
    return ""


def _by_code(code: int) -> str:
    return chr(code) if code < 0x110000 and not 0xD800 <= code < 0xE000 else ""
