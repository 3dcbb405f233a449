"""An evaluation as one page: figures with intervals, curves, confusion, mistakes, slices, checks; and several side by side."""

from __future__ import annotations

import html
from collections.abc import Sequence
from itertools import combinations, islice
from pathlib import Path

from danlu.base.storage import write_whole
from danlu.evaluation.checks import NAMED, Checks
from danlu.evaluation.comparing import Comparison, Pair
from danlu.evaluation.differing import find_differing
from danlu.evaluation.evaluated import Evaluation, read_evaluation
from danlu.evaluation.samples import SAMPLES, read_samples
from danlu.evaluation.scores.curves import Line
from danlu.reports.comparison import differences
from danlu.reports.confusion import confused_pairs, confusion_table
from danlu.reports.figures import (
    averages_table,
    class_table,
    figures_table,
    number,
    slice_table,
    threshold_table,
    tiles,
    title_of,
    with_interval,
)
from danlu.reports.mistakes import DECIDED, Mistakes, differing_cards, find_mistakes, mistake_cards
from danlu.reports.page import page_of
from danlu.reports.plots import PlotLine, draw_shares, draw_whisker
from danlu.reports.tables import Markup, duration, html_table

MOST_PAIRS = 3  # whose differing rows are shown
REPORT, COMPARED = "report.html", "compare.html"
STYLE = """
main { display: block; } .lead { opacity: 1; } small { opacity: .7; font-size: .85em; }
.tiles { display: flex; flex-wrap: wrap; gap: .8rem; margin: 1rem 0; }
.tile { flex: 1 1 9rem; box-sizing: border-box; border: 1px solid var(--faint); border-radius: .6rem;
  padding: .7rem 1rem; display: flex; flex-direction: column; }
.tile b { font-size: 1.6rem; font-weight: 600; font-variant-numeric: tabular-nums; line-height: 1.3; }
.tile.main { background: rgba(0,114,178,.13); border-color: rgba(0,114,178,.5); } .tile span { font-size: .9em; opacity: .85; }
.note { border-left: 4px solid #E69F00; padding: .4rem .9rem; margin: .6rem 0; background: rgba(230,159,0,.1); opacity: 1; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 21rem), 1fr)); gap: 1.2rem 1.8rem; }
.beside { display: flex; flex-wrap: wrap; gap: 1.2rem 3rem; } .beside > div { min-width: 0; max-width: 100%; }
.plots figure { max-width: 28rem; } figcaption { font-weight: 600; margin-bottom: .3rem; }
td small { white-space: nowrap; } svg.whisker { vertical-align: middle; width: 160px; }
td { overflow-wrap: break-word; max-width: 34rem; } td:first-child { min-width: 7rem; }
table.confusion td { text-align: right; padding: .3em .55em; border: 1px solid var(--paper); min-width: 2.2em; }
table.confusion th { text-align: left; padding: .3em .7em; border: 0; white-space: nowrap; font-weight: 500; }
table.confusion thead th { vertical-align: bottom; text-align: right; }
table.confusion thead th:first-child { opacity: .7; text-align: left; }
table.confusion.many { font-size: .88em; } table.confusion.many thead th:not(:first-child) span { writing-mode: vertical-rl;
  transform: rotate(180deg); max-height: 11em; overflow: hidden; text-overflow: ellipsis; }
table.confusion tbody th { position: sticky; left: 0; background: var(--paper); max-width: 14em; overflow: hidden;
  text-overflow: ellipsis; }
td.none { opacity: .3; } td.total { opacity: .65; padding-left: 1em !important; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr)); gap: .9rem; }
article { border: 1px solid var(--faint); border-radius: .6rem; padding: .8rem 1rem; min-width: 0; overflow-wrap: anywhere;
  display: flex; flex-direction: column; } article dl { margin-top: auto; } article .text { margin-bottom: .6rem; }
article .text { white-space: pre-line; }
article dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .8rem; margin-bottom: .6rem; }
article dt { opacity: .65; max-width: 9rem; } article dd { margin: 0; } summary { cursor: pointer; }
@media (max-width: 40rem) { body { padding: 0 1rem; margin: 1rem auto; } }
"""


def write_report(folder: Path) -> Path:
    """Write report.html beside the evaluation.json and samples.jsonl of a folder that measure() filled.

    Raises: DataError if one of them is missing or damaged.
    """
    evaluation = read_evaluation(folder)
    mistakes = find_mistakes(read_samples(folder / SAMPLES), evaluation)
    subject = evaluation.subject
    page = page_of(f"{subject.model} on {subject.task}", f"<main>{report_of(evaluation, mistakes)}</main>", STYLE)
    write_whole(folder / REPORT, page.encode())
    return folder / REPORT


def report_of(evaluation: Evaluation, mistakes: Mistakes) -> str:
    """The page's body."""
    subject, checks = evaluation.subject, evaluation.checks
    parts = [
        f'<p class="lead">{html.escape(subject.data)}, {html.escape(subject.part)}: {checks.scored:,} rows scored of {checks.rows:,}. '
        f"Kind: {subject.kind}. {evaluation.examples_per_second:,.0f} examples/s.</p>",
        tiles(evaluation.score, evaluation.figures),
        *(f'<p class="note">{html.escape(warning)}</p>' for warning in (*evaluation.warnings, *notes_of(checks))),
        _section("Figures", _figures(evaluation)),
        f"<p>Intervals hold 95% of 1,000 bootstrap draws over rows (seed {evaluation.seed}). ↓ marks figures of which less is better.</p>",
    ]
    if plots := _plots(evaluation):
        parts.append(_section("Curves and calibration", f'<div class="plots">{plots}</div>'))
    if evaluation.thresholds and evaluation.confusion:
        parts.append(_section("Thresholds", threshold_table(evaluation.thresholds, evaluation.confusion.labels[-1])))
    if evaluation.confusion:
        parts.append(_section("Confusion", confusion_table(evaluation.confusion)))
        if len(evaluation.confusion.labels) > 2:
            parts.append(_section("Confused most often", confused_pairs(evaluation.confusion)))
    if evaluation.per_class:
        parts.append(_section("By class", class_table(evaluation.per_class)))
    if evaluation.slices:
        parts.append(_section("Slices", slice_table(evaluation.slices, evaluation.score, evaluation.main)))
    parts += _mistakes(mistakes, subject.kind, checks.scored)
    parts += [_section("Checks of the data", _checks(checks)), _section("Data and environment", _environment(evaluation))]
    return "".join(parts)


def notes_of(checks: Checks) -> list[str]:
    """What of the checks a reader must not miss."""
    said = []
    if checks.leaks:
        said.append(f"{checks.leaks:,} rows were also in training: the figures flatter the model")
    if checks.contradictions:
        said.append(f"{checks.contradictions:,} rows want another answer than an earlier row with the same input")
    if checks.refused:
        said.append(f"{checks.refused:,} rows were refused by the model and are in no figure")
    return said


def _section(title: str, content: str) -> str:
    return f"<section><h2>{html.escape(title)}</h2>{content}</section>"


def _figures(evaluation: Evaluation) -> str:
    labels = evaluation.confusion.labels if evaluation.confusion else ()
    averages = averages_table(evaluation.figures, labels[-1] if len(labels) == 2 else "")
    return f'<div class="beside"><div>{figures_table(evaluation.ordered(), evaluation.score)}</div><div>{averages}</div></div>'


def _plots(evaluation: Evaluation) -> str:
    curves, found = evaluation.curves, []
    if curves and curves.roc:
        found.append(_roc(curves.roc))
        plotted = [PlotLine(name=line.name, x=line.x, y=line.y) for line in curves.precision_recall]
        found.append(draw_shares(plotted, title="Precision against recall", x_label="recall", y_label="precision"))
    if evaluation.calibration:
        bins, total = evaluation.calibration, sum(each.rows for each in evaluation.calibration)
        line = PlotLine(name="right", x=[each.confidence for each in bins], y=[each.accuracy for each in bins], rings=True)
        bars = [PlotLine(name="", x=(each.low, each.high), y=(each.rows / total,)) for each in bins]
        drawn = draw_shares(
            [line],
            title="Reliability",
            x_label="confidence",
            y_label="share that is right; bars: of answers",
            level=((0, 0), (1, 1)),
            bars=bars,
        )
        columns = ("confidence", "answers", "sure to", "right")
        rows = [[f"{each.low:.2f} to {each.high:.2f}", f"{each.rows:,}", f"{each.confidence:.3f}", f"{each.accuracy:.3f}"] for each in bins]
        found.append(f"<div>{drawn}<details><summary>counts</summary>{html_table(columns, rows, columns[1:])}</details></div>")
    return "".join(found)


def _roc(lines: Sequence[Line]) -> str:
    plotted = [PlotLine(name=line.name, x=line.x, y=line.y) for line in lines]
    level = ((0.0, 0.0), (1.0, 1.0))
    return draw_shares(plotted, title="ROC", x_label="share of others taken for it", y_label="share of the class found", level=level)


def _mistakes(mistakes: Mistakes, kind: str, scored: int) -> list[str]:
    whole = f"<p>{mistakes.count:,} of {scored:,} answers are not wholly right; all of them stand in {SAMPLES}.</p>"
    found = []
    if mistakes.surest:
        found.append(_section("Mistakes it was surest of", whole + mistake_cards(mistakes.surest, kind)))
    if mistakes.worst:
        title = "Least probability for the truth" if mistakes.surest else "Worst answers"
        found.append(_section(title, ("" if found else whole) + mistake_cards(mistakes.worst, kind)))
    return found


def _checks(checks: Checks) -> str:
    def named(rows: Sequence[str], count: int) -> Markup:
        first = "".join(f"<li>{html.escape(row)}</li>" for row in rows)
        more = f"<li>and {count - len(rows):,} more</li>" if count > len(rows) else ""
        return Markup(
            f"<details><summary>{'first ' + str(NAMED) if count > NAMED else 'rows'}</summary><ul>{first}{more}</ul></details>"
            if rows
            else ""
        )

    leaks = ("not known", "what was trained on is not given") if checks.leaks is None else (f"{checks.leaks:,}", "")
    rows = [
        ["rows read", f"{checks.rows:,}", ""],
        ["scored", f"{checks.scored:,}", ""],
        [
            "set aside: not of the kind, or with a label that the model does not know",
            f"{checks.set_aside:,}",
            named(checks.first_set_aside, checks.set_aside),
        ],
        ["refused by the model", f"{checks.refused:,}", named(checks.first_refused, checks.refused)],
        ["read in part", f"{checks.cut:,}", f"{checks.cut_tokens:,} tokens left out" if checks.cut else ""],
        ["duplicates within the data", f"{checks.duplicates:,}", named(checks.first_duplicates, checks.duplicates)],
        ["duplicates that want another answer", f"{checks.contradictions:,}", ""],
        ["also in training", leaks[0], leaks[1] or named(checks.first_leaks, checks.leaks or 0)],
    ]
    return html_table(("what", "rows", "which"), rows, ("rows",))


def _environment(evaluation: Evaluation) -> str:
    subject = evaluation.subject
    rows = [
        ["model", subject.model],
        ["data", f"{subject.data} ({subject.part})"],
        ["licence of the data", subject.licence or "not stated"],
        ["prompt, SHA-256", subject.prompt_sha256 or "none"],
        ["seed", str(evaluation.seed)],
        ["time", f"{duration(evaluation.wall_seconds)}, {evaluation.examples_per_second:,.1f} examples/s"],
        *([name, str(value)] for name, value in evaluation.environment.items()),
    ]
    return html_table(("", ""), rows)


def write_comparison(comparison: Comparison, out: Path) -> Path:
    """Write compare.html of evaluations that compare() read."""
    page = page_of(f"Compared: {', '.join(comparison.names)}", f"<main>{comparison_of(comparison)}</main>", STYLE)
    write_whole(out / COMPARED, page.encode())
    return out / COMPARED


def comparison_of(comparison: Comparison) -> str:
    """The page's body: verdicts first, then what they rest on."""
    names, evaluations, score = comparison.names, comparison.evaluations, comparison.score
    verdicts = "".join(
        f'<p class="lead">{"<b>" if pair.told else ""}{html.escape(str(pair))}{"</b>" if pair.told else ""}</p>'
        for pair in comparison.pairs
    )
    mains = [each.figures[score] for each in evaluations]
    span = min(each.low for each in mains), max(each.high for each in mains)
    rows = [
        [name, f"{each.checks.scored:,}", with_interval(figure), Markup(draw_whisker(figure.value, figure.low, figure.high, span))]
        for name, each, figure in zip(names, evaluations, mains, strict=True)
    ]
    columns = ("model", "rows", title_of(score), f"{number(span[0])} to {number(span[1])}")
    parts = [verdicts, _section(title_of(score), html_table(columns, rows, columns[1:3])), _section("Pairs", _pairs(comparison.pairs))]
    shared = [name for name in evaluations[0].figures if all(name in each.figures for each in evaluations)]
    side = [[title_of(name), *(with_interval(each.figures[name]) for each in evaluations)] for name in shared]
    parts.append(_section("All figures", html_table(("", *names), side, names)))
    lines = [each.curves.roc for each in evaluations if each.curves]
    if len(lines) == len(names) and all(len(each) == 1 for each in lines):
        own = [Line(name=name, x=each[0].x, y=each[0].y) for name, each in zip(names, lines, strict=True)]
        parts.append(_section("Curves", f'<div class="plots">{_roc(own)}</div>'))
    parts += _differing(comparison)
    told = [{"data": each.subject.data, "part": each.subject.part, "seed": each.seed, **each.environment} for each in evaluations]
    apart = differences(told)
    parts.append(
        _section("Data and environment that differ", html_table(("", *names), apart, names) if apart else "<p>none: all are the same</p>")
    )
    return "".join(parts)


def _differing(comparison: Comparison) -> list[str]:
    """Rows that one of a pair has right and the other wrong, for the first few pairs."""
    kind, parts = comparison.evaluations[0].subject.kind, []
    for first, second in islice(combinations(range(len(comparison.names)), 2), MOST_PAIRS):
        names = (comparison.names[first], comparison.names[second])
        found = find_differing(comparison.folders[first], comparison.folders[second], less_is_better=kind == "regress")
        for better, worse, rows in ((*names, found.first_better), (*names[::-1], found.second_better)):
            title = f"{better} right, {worse} wrong" if kind in DECIDED else f"{better} better than {worse}"
            parts += [_section(title, differing_cards(rows, names, kind))] if rows else []
    return parts


def _pairs(pairs: Sequence[Pair]) -> str:
    widest = max(max(abs(pair.difference.low), abs(pair.difference.high)) for pair in pairs) or 1.0
    rows = []
    for pair in pairs:
        by = pair.difference
        apart = "" if pair.only_first is None else f"{pair.only_first:,} / {pair.only_second:,}"
        told = f"{by.value:+.3f} <small>{by.low:+.3f} to {by.high:+.3f}</small>"
        drawn = draw_whisker(by.value, by.low, by.high, (-widest, widest), zero=True)
        ps = (f"{p:.3f}" if p >= 0.001 else "< 0.001" for p in (pair.p, pair.p_of_all))
        rows.append([f"{pair.first} − {pair.second}", f"{pair.rows:,}", Markup(told), Markup(drawn), apart, *ps, pair.test])
    columns = ("pair", "rows in both", "difference", "around 0", "only one right", "p", "p of all pairs (Holm)", "test")
    return html_table(columns, rows, ("rows in both", "difference", "only one right", "p", "p of all pairs (Holm)"))
