"""What a line of mdoc(7), the markup of BSD's manual pages, says: its macros name what words are, and may stand among them."""

from __future__ import annotations

PUNCTUATION = set(".,:;)]?!")
CLOSING = PUNCTUATION | set("}>”’")
OPENING = set("([{<“‘")
ENCLOSING = {
    "Op": ("[", "]"), "Bq": ("[", "]"), "Pq": ("(", ")"), "Aq": ("<", ">"), "Brq": ("{", "}"), "Dq": ("“", "”"), "Qq": ('"', '"'),
    "Sq": ("‘", "’"), "Ql": ("‘", "’"),
}  # fmt: skip
NAMED = {
    "Oo": "[", "Oc": "]", "Bo": "[", "Bc": "]", "Po": "(", "Pc": ")", "Ao": "<", "Ac": ">", "Do": "“", "Dc": "”", "So": "‘", "Sc": "’",
    "Nd": "–", "Ux": "UNIX", "Bx": "BSD", "At": "AT&T UNIX", "Nx": "NetBSD", "Fx": "FreeBSD", "Ox": "OpenBSD", "Bsx": "BSD/OS",
}  # fmt: skip
ALONE = {"Fl": "-", "Ar": "file ...", "Nm": ""}  # what these say without arguments; the name is the page's
WORDS = (
    "Ad", "An", "Ar", "Cd", "Cm", "Dl", "D1", "Dv", "Em", "Er", "Ev", "Fa", "Fd", "Ft", "Ic", "In", "Lb", "Li", "Lk", "Ms", "Mt", "No",
    "Pa", "Sx", "Sy", "Tn", "Va", "Vt", "%A", "%B", "%D", "%J", "%N", "%O", "%P", "%R", "%T", "%U", "%V",
)  # fmt: skip
SILENT = ("Xo", "Xc", "Ta", "Fo", "Fc")
MDOC = {*ENCLOSING, *NAMED, *ALONE, *WORDS, *SILENT, "Fn", "Ns", "Pf", "St", "Xr"}


def inline(words: list[str], page: str) -> str:
    """The text of a line's words, macros among them; `page` is what the page describes."""
    end = len(words)
    while end and words[end - 1] in PUNCTUATION:  # stands behind whatever the line closes
        end -= 1
    text, closing, is_glued, is_option, at = "", "", True, False, 0
    while at < end:
        word, at = words[at], at + 1
        has_argument = at < end and words[at] not in MDOC and words[at] not in PUNCTUATION
        if is_option and word not in MDOC:
            word = word if word in PUNCTUATION or word == "|" else "-" + word
            text, is_glued = _set(text, word, is_glued), False
            continue
        is_option = word == "Fl" and has_argument
        if word in ENCLOSING:
            word, closing = ENCLOSING[word][0], ENCLOSING[word][1] + closing
            text, is_glued = _set(text, word, is_glued), True
            continue
        if word == "Ns":
            is_glued = True
            continue
        if word in ("Xr", "Fn") and has_argument:
            start = at
            while at < end and words[at] not in MDOC and words[at] not in PUNCTUATION:
                at += 1
            inside = ", ".join(words[start + 1 : at])
            word = f"{words[start]}({inside})" if inside or word == "Fn" else words[start]
        elif word == "Pf" and at < end:
            text, is_glued, at = _set(text, words[at], is_glued), True, at + 1
            continue
        elif word in ALONE and not has_argument:
            word = ALONE[word] or page
        elif word in MDOC:
            word = NAMED.get(word, "")
        if word:
            text, is_glued = _set(text, word, is_glued), word in OPENING
    return text + closing + "".join(words[end:])


def _set(text: str, word: str, is_glued: bool) -> str:
    return text + word if is_glued or not text or word in PUNCTUATION else f"{text} {word}"
