"""Figures for a page: tiles, tables with intervals drawn beside the numbers, classes, slices and thresholds."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence

from danlu.evaluation.evaluated import ClassFigures
from danlu.evaluation.scores.counts import AVERAGES, RATES
from danlu.evaluation.scores.curves import Threshold
from danlu.evaluation.scores.figures import LOWER_IS_BETTER, Figure
from danlu.evaluation.slices import Slice
from danlu.reports.plots import draw_whisker
from danlu.reports.tables import Markup, html_table

NAMES = {
    "accuracy": "Accuracy",
    "mcc": "Matthews correlation",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "log_loss": "Log loss (nats)",
    "brier": "Brier score",
    "ece": "Calibration error (ECE)",
    "roc_auc": "Area under ROC",
    "average_precision": "Average precision",
    "right_probability": "Probability of the right choice",
    "exact_match": "Exact match",
    "token_f1": "F1 of words",
    "ndcg_at_10": "nDCG at 10",
    "mrr": "Mean reciprocal rank",
    "recall_at_1": "Recall at 1",
    "recall_at_10": "Recall at 10",
    "mse": "Mean squared error",
    "mae": "Mean absolute error",
    "r2": "R²",
    "pearson": "Pearson",
    "spearman": "Spearman",
}
TILES = 5
FIRST_IN_TILES = (
    "f1_macro",
    "f1",
    "exact_match",
    "mcc",
    "roc_auc",
    "ece",
    "pearson",
    "mae",
    "mrr",
    "recall_at_10",
    "log_loss",
    "token_f1",
    "accuracy",
    "precision",
    "recall",
)
OF_A_CLASS = ("precision", "recall", "f1", "roc_auc", "average_precision")


def title_of(name: str) -> str:
    """A figure's name for people: f1_macro is F1 (macro)."""
    head, _, average = name.rpartition("_")
    return f"{NAMES.get(head, head)} ({average})" if average in ("micro", "macro", "weighted") else NAMES.get(name, name)


def number(value: float) -> str:
    """A figure in three places, or more where it is tiny or large."""
    return f"{value:.3f}" if 0.001 <= abs(value) < 1000 or not value else f"{value:.3g}"


def with_interval(figure: Figure | None) -> Markup:
    """A figure with its interval in small print."""
    if figure is None:
        return Markup("–")
    return Markup(f"{number(figure.value)} <small>{number(figure.low)} to {number(figure.high)}</small>")


def tiles(main: str, figures: Mapping[str, Figure]) -> str:
    """The main figure and those that say most beside it."""
    shown = [main, *(name for name in FIRST_IN_TILES if name in figures and name != main)][:TILES]
    parts = []
    for place, name in enumerate(shown):
        figure = figures[name]
        parts.append(
            f'<div class="tile{" main" if not place else ""}"><span>{html.escape(title_of(name))}</span><b>{number(figure.value)}</b>'
            f"<small>95%: {number(figure.low)} to {number(figure.high)}</small></div>"
        )
    return f'<div class="tiles">{"".join(parts)}</div>'


def averages_table(figures: Mapping[str, Figure], positive: str) -> str:
    """Precision, recall and F1 under each way to average them; of two classes also those of the positive one alone."""
    ways = [way for way in AVERAGES if f"f1_{way}" in figures]
    alone = [positive] if positive and "f1" in figures else []
    rows = [
        [NAMES[name], *(with_interval(figures.get(key)) for key in ([name] if alone else []) + [f"{name}_{way}" for way in ways])]
        for name in RATES
    ]
    columns = ["", *(f"of {label}" for label in alone), *ways]
    return html_table(columns, rows, columns[1:]) if ways else ""


def figures_table(figures: Iterable[tuple[str, Figure]], main: str) -> str:
    """Figures with their intervals, drawn on the scale from 0 to 1 where they lie on it; averages stand in a table of their own."""
    rows = []
    for name, figure in figures:
        if name != main and name.rpartition("_")[2] in AVERAGES:
            continue
        low = -1.0 if min(figure.low, 0) < 0 else 0.0
        drawn = draw_whisker(figure.value, figure.low, figure.high, (low, 1.0)) if low <= figure.low and figure.high <= 1 else ""
        side = " ↓" if name in LOWER_IS_BETTER else ""
        interval = f"{number(figure.low)} to {number(figure.high)}"
        rows.append([title_of(name) + side, number(figure.value), interval, number(figure.error), Markup(drawn)])
    columns = ("figure", "value", "95% interval", "standard error", "from 0 to 1")
    return html_table(columns, rows, ("value", "95% interval", "standard error"))


def class_table(classes: Sequence[ClassFigures]) -> str:
    """A row for each class, tag or type of entity."""
    names = [name for name in OF_A_CLASS if any(name in each.figures for each in classes)]
    counted = any(each.rows is not None for each in classes)
    rows = [
        [each.name, *([f"{each.rows:,}"] if each.rows is not None else []), *(with_interval(each.figures.get(name)) for name in names)]
        for each in classes
    ]
    titles = [title_of(name) for name in names]
    return html_table(["class", *(["rows"] if counted else []), *titles], rows, ["rows", *titles])


def slice_table(slices: Sequence[Slice], score: str, whole: Figure) -> str:
    """A figure of each slice beside that of all, on one scale."""
    told = [each.figure for each in slices if each.figure]
    span = min(each.low for each in [whole, *told]), max(each.high for each in [whole, *told])
    drawn = Markup(draw_whisker(whole.value, whole.low, whole.high, span))
    rows = [[Markup("<b>all</b>"), "", "", title_of(score), with_interval(whole), drawn]]
    for each in slices:
        drawn = Markup(draw_whisker(each.figure.value, each.figure.low, each.figure.high, span) if each.figure else "")
        rows.append([each.by, each.name, f"{each.rows:,}", title_of(each.score), with_interval(each.figure), drawn])
    return html_table(("by", "slice", "rows", "figure", "value", f"{number(span[0])} to {number(span[1])}"), rows, ("rows", "value"))


def threshold_table(thresholds: Sequence[Threshold], positive: str) -> str:
    """What each threshold of the positive class comes to, and a warning of those that were chosen here."""
    columns = ("chosen by", "score from", "Accuracy", "Precision", "Recall", "F1", "Specificity")
    rows = [
        [each.why, *(f"{value:.3f}" for value in (each.threshold, each.accuracy, each.precision, each.recall, each.f1, each.specificity))]
        for each in thresholds
    ]
    said = (
        f"Said to be {html.escape(positive)} from this score on. The best thresholds are chosen on these very rows, which flatters them: "
        "choose on others, and give the threshold here."
    )
    return f"{html_table(columns, rows, columns[1:])}<p>{said}</p>"
