"""docs/mathematics.md: its quotes stand in the code, its examples hold, and a slip in a quoted line makes its example fail."""

from __future__ import annotations

import importlib
import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from .rooms import ROOT

PAGE = (ROOT / "docs" / "mathematics.md").read_text("utf-8")
SECTION = re.compile(r"^### (.+?)\n(.*?)(?=^##|\Z)", re.MULTILINE | re.DOTALL)
BLOCK = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"\]\(\.\./(danlu/[\w/]+\.py)\)")
LONGEST = 500

# What could go wrong in a quoted line, and often has: a sum of keys, ReLU behind both products, a sign, a root that was forgotten.
SLIPS = {
    "Embedding: words, learned positions, segments": [
        ("inputs.tokens", "inputs.tokens.flip(1)"),
        ("+ self.position", "* self.position"),
        ("self.segment.weight[0] if", "0 if not"),
    ],
    "Sinusoidal positions": [("-(torch", "(torch"), ("angles.sin(), angles.cos()", "angles.cos(), angles.sin()")],
    "Rotary positions": [("-second", "second"), ("(-second, first)", "(-first, second)")],
    "Relative positions": [("(buckets - exact)", "buckets"), ("exact + steps", "steps")],
    "Attention": [
        ("weights @ value", "weights @ key"),
        ("query, key, value, attn", "query, key, key, attn"),
        ("is_causal=causal", "is_causal=False"),
        ("scale=self.scale", "scale=1.0"),
        ("math.sqrt(query.shape[3])", "query.shape[3]"),
    ],
    "Heads, and groups of them": [("mixed.transpose(1, 2)", "mixed"), ("transpose(1, 2)\n", "flip(1).transpose(1, 2)\n")],
    "Cross attention": [(" if source is None else source", "")],
    "Feed-forward": [
        ("self.down(self.activation(self.up(x)))", "self.activation(self.down(self.up(x)))"),
        ("self.activation(self.gate(x), self.up(x))", "self.activation(self.up(x), self.gate(x))"),
    ],
    "Normalisation": [(".rsqrt_()", ".sqrt_()"), ("x * scale", "x / scale"), ('== "rms"', '!= "rms"')],
    "Residuals": [
        ("self._dropped(part(y))", "self._dropped(part(x))"),
        ("part(x.to(", "-3 * part(x.to("),
        ("_, x = sum_normed", "x, _ = sum_normed"),
    ],
    "The plain network": [
        (".tanh()", ".sigmoid()"),
        ("given, state[0]", "given * 0, state[0]"),
        ("self.head(hidden)", "-self.head(hidden)"),
    ],
    "Gates: GRU and LSTM": [
        ("new, h, keep", "h, new, keep"),
        ("reset * hidden_new", "hidden_new"),
        ("reset, keep", "keep, reset"),
        ("enter, forget", "forget, enter"),
        ("new.tanh()", "new"),
        ("show.sigmoid() * c.tanh()", "show.sigmoid() * c"),
    ],
    "Logits and cross-entropy": [
        ("nats = -(1", "nats = (1"),
        ("!= IGNORED", "!= 0"),
        ("(hidden, self.", "(-hidden, self."),
    ],
    "Perplexity and bits per byte": [("math.log(2)", "math.log(10)"), ("math.exp(", "2 ** (")],
    "Next token": [("batch[:, 1:]", "batch[:, :-1]")],
    "Hidden words": [
        ("fate < self.masked,", "fate > self.masked,"),
        ("self.masked + self.random", "self.masked"),
        ("& ~self.special", "| self.special"),
    ],
    "The next sentence": [
        ("others, second", "second, others"),
        (".tanh()", ""),
        ("self.next_sentence(self", "-self.next_sentence(self"),
    ],
    "Spans that were cut out, and source to target": [
        ("row[at + keep : at + keep + take]", "row[at : at + take]"),
        ("at += keep + take", "at += take"),
        ("target[:, :-1]", "target[:, 1:]"),
    ],
    "Classes, labels, spans": [
        ("self.classes(self", "-self.classes(self"),
        ("each(hidden)", "-each(hidden)"),
        ("~visible[..., None], -torch.inf", "visible[..., None], 0"),
        (" / 2", ""),
    ],
    "Numbers": [("mse_loss", "l1_loss"), ('reduction="sum"', 'reduction="mean"')],
    "SGD, with momentum": [
        ("momentum=config.momentum", "momentum=0.0"),
        ("fused", "nesterov=True, fused"),
        ("fused", "maximize=True, fused"),
    ],
    "Adam and AdamW": [
        ("[Adam(", "[AdamW("),
        ("betas=betas, fused=True)]", "betas=betas[::-1], fused=True)]"),
        ("AdamW(groups", "Adam(groups"),
    ],
    "Muon": [("beta=b, alpha=c", "beta=c, alpha=b"), ("x, beta=a", "x, beta=b")],
    "The rate over a run": [("1 + math.cos", "1 - math.cos"), ("max(done, 1e-3) / config.warmup", "1.0"), ("- config.warmup)\n", ")\n")],
    "Temperature, top-k, top-p": [
        ("/ max(value", "* max(value"),
        ("logits < least", "logits <= least"),
        (" - top\n", "\n"),
        ("before < value", "before > value"),
    ],
}


@dataclass(frozen=True)
class Place:
    """Where a part of a quote stands: the lines of a file from `start` up to `stop`."""

    file: str
    start: int
    stop: int


@dataclass(frozen=True)
class Section:
    """One formula: its text, the files it names, what it quotes from them (in parts) and its example."""

    text: str
    files: tuple[str, ...]
    quotes: tuple[str, ...]
    example: str


def read(body: str) -> Section:
    """A section by its text. The first of its two blocks of code is the quote, the second the example."""
    quote, example = BLOCK.findall(body)
    parts = tuple(textwrap.dedent(part) for part in re.split(r"^\.\.\.\n", quote, flags=re.MULTILINE))
    return Section(BLOCK.sub("", body), tuple(FILE.findall(body)), parts, example)


SECTIONS = {heading: read(body) for heading, body in SECTION.findall(PAGE)}
PRELUDE = BLOCK.findall(PAGE.partition("\n### ")[0])[0]


def find(part: str, files: tuple[str, ...]) -> Place | None:
    """The lines that a part of a quote repeats, whatever their common indentation."""
    for file in files:
        lines = (ROOT / file).read_text("utf-8").splitlines(keepends=True)
        count = len(part.splitlines())
        for start in range(len(lines) - count + 1):
            if textwrap.dedent("".join(lines[start : start + count])) == part:
                return Place(file, start, start + count)
    return None


def run(example: str) -> None:
    """Run an example behind the page's first lines, in a namespace of its own."""
    exec(compile(PRELUDE + example, "docs/mathematics.md", "exec", dont_inherit=True), {})


@contextmanager
def slipped(section: Section, right: str, wrong: str) -> Iterator[None]:
    """While open, a quoted line computes something else."""
    for place in (find(part, section.files) for part in section.quotes):
        assert place is not None
        lines = (ROOT / place.file).read_text("utf-8").splitlines(keepends=True)
        quoted = "".join(lines[place.start : place.stop])
        if right in quoted:
            break
    else:
        raise AssertionError(f"no quoted line has {right!r}")
    lines[place.start : place.stop] = [quoted.replace(right, wrong, 1)]
    module = importlib.import_module(place.file.removesuffix(".py").replace("/", "."))
    before = dict(vars(module))
    exec(compile("".join(lines), place.file, "exec", dont_inherit=True), vars(module))
    try:
        yield
    finally:
        vars(module).clear()
        vars(module).update(before)


@pytest.mark.parametrize("heading", SECTIONS)
def test_quoted_lines_stand_in_the_file_that_is_named(heading: str) -> None:
    section = SECTIONS[heading]
    assert section.files and section.quotes and "assert " in section.example
    assert re.match(r"\$\$.+\$\$\n", section.text), "the formula stands first"
    for part in section.quotes:
        assert find(part, section.files), f"not in {', '.join(section.files)}:\n{part}"
    named = {place.file for part in section.quotes if (place := find(part, section.files))}
    assert named == set(section.files), "each file that is named is quoted"


@pytest.mark.parametrize("heading", SECTIONS)
def test_the_example_holds(heading: str) -> None:
    run(SECTIONS[heading].example)


@pytest.mark.parametrize(("heading", "right", "wrong"), [(heading, *slip) for heading in SLIPS for slip in SLIPS[heading]])
def test_a_slip_in_a_quoted_line_makes_the_example_fail(heading: str, right: str, wrong: str) -> None:
    with slipped(SECTIONS[heading], right, wrong), pytest.raises(AssertionError):
        run(SECTIONS[heading].example)


def test_every_formula_has_its_slips_and_the_page_its_length() -> None:
    assert list(SLIPS) == list(SECTIONS)
    assert len(PAGE.splitlines()) <= LONGEST, "the page is read in one sitting"


def test_a_line_that_is_not_there_is_not_found(tmp_path: Path) -> None:
    file = ("danlu/nn/norm.py",)
    assert find("return F.rms_norm(x)\n", file) is None
    assert find("def make_norm(config: NormConfig, width: int) -> nn.Module:\n", file)
    assert find("def make_norm(config: NormConfig, width: int) -> nn.Module:\n", ("danlu/nn/loss.py",)) is None
