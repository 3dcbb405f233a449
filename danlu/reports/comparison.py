"""Several runs side by side: their curves, their last figures, and only those settings in which they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.base.errors import CheckpointError
from danlu.base.run import Run
from danlu.base.storage import write_whole
from danlu.reports.curve import Curve, draw_svg
from danlu.reports.page import page_of
from danlu.reports.plots import draw_legend
from danlu.reports.summary import RunSummary, read_curve, summarize
from danlu.reports.tables import amount, duration, html_table, text_table

Rows = list[list[str]]  # what is told, then one cell a run
FINGERPRINT_DIGITS = 12


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Runs side by side; shows itself as text, in a notebook, and as files by write()."""

    runs: list[RunSummary]
    curves: list[Curve]
    figures: Rows
    settings: Rows
    machines: Rows

    def tables(self) -> list[tuple[str, Rows]]:
        """Each table under its title; what is the same for all runs is left out of the last two."""
        titles = ("Final figures", "Settings that differ", "Versions and machine that differ")
        return list(zip(titles, (self.figures, self.settings, self.machines), strict=True))

    def write(self, out: Path) -> tuple[Path, Path | None, str]:
        """Write compare.html and compare.png. Returns: both, the picture None without matplotlib; and what is to be said of it."""
        page, picture = out / "compare.html", out / "compare.png"
        write_whole(page, page_of(f"Runs compared: {', '.join(curve.name for curve in self.curves)}", self.html()).encode())
        try:
            from danlu.reports.picture import draw_png
        except ImportError:
            return page, None, "no picture: matplotlib is not installed (pip install 'danlu[train]'); the page needs none"
        drawn, said = draw_png(self.curves, self.runs)
        write_whole(picture, drawn)
        return page, picture, said

    def html(self) -> str:
        """Curves and tables, for a page or a notebook."""
        charts = [draw_svg(self.curves, against=against, legend=False) for against in ("step", "time")]
        parts = [
            draw_legend([curve.name for curve in self.curves]),
            f'<div style="display:flex;flex-wrap:wrap;gap:1.5em">{"".join(charts)}</div>',
        ]
        parts.append("<p>Faint: each step. Strong: mean over the steps around it. Ring: on held-out data.</p>")
        for title, rows in self.tables():
            parts.append(f"<h2>{title}</h2>")
            parts.append(html_table(self._columns(), rows, self._columns()[1:]) if rows else "<p>none: all are the same</p>")
        return "".join(parts)

    _repr_html_ = html

    def __str__(self) -> str:
        parts = []
        for title, rows in self.tables():
            parts.append(f"{title}\n{text_table(self._columns(), rows, self._columns()[1:])}" if rows else f"{title}: none")
        return "\n\n".join(parts)

    __repr__ = __str__

    def _columns(self) -> list[str]:
        return ["", *(curve.name for curve in self.curves)]


def compare_runs(runs: Sequence[Run]) -> Comparison:
    """Put runs side by side; what one of them cannot tell is shown as "?"."""
    names = _names(runs)
    summaries = [summarize(run) for run in runs]
    manifests = [_manifest(run) for run in runs]
    settings = [_settings(run, manifest) for run, manifest in zip(runs, manifests, strict=True)]
    return Comparison(
        runs=summaries,
        curves=[read_curve(run, name, each.unit) for run, name, each in zip(runs, names, summaries, strict=True)],
        figures=_figures(summaries, manifests, [run.evaluations() for run in runs]),
        settings=differences(settings),
        machines=differences([_machine(manifest) for manifest in manifests]),
    )


def differences(settings: Sequence[Mapping[str, Any]]) -> Rows:
    """Keys whose values are not the same everywhere, each with one cell a run; "?" where a key is not known."""
    keys = dict.fromkeys(key for each in settings for key in each)
    rows = [[key, *(_cell(each[key]) if key in each else "?" for each in settings)] for key in keys]
    return [row for row in rows if len(set(row[1:])) > 1]


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return flat


def _names(runs: Sequence[Run]) -> list[str]:
    """Folders' names, or whole paths where two runs of different folders have the same."""
    short = [run.folder.name for run in runs]
    return [str(run.folder) if short.count(name) > 1 else name for run, name in zip(runs, short, strict=True)]


def _manifest(run: Run) -> dict[str, Any]:
    try:
        return run.manifest
    except CheckpointError:
        return {}


def _settings(run: Run, manifest: dict[str, Any]) -> dict[str, Any]:
    """What was asked for; in its place what followed from it, where the run tells that."""
    asked = {key: value for key, value in run.config.items() if key != "format"}
    parts = {part: manifest[part] if isinstance(manifest.get(part), dict) else {} for part in ("settings", "training", "model")}
    chosen = {key: manifest[key] for key in ("precision",) if key in manifest}
    return asked | parts["settings"] | flatten(parts["training"]) | chosen | flatten(parts["model"], "model.")


def _machine(manifest: dict[str, Any]) -> dict[str, Any]:
    told: dict[str, Any] = {key: manifest[key] for key in ("versions", "machine", "threads", "data_fingerprint") if key in manifest}
    if isinstance(told.get("data_fingerprint"), str):
        told["data_fingerprint"] = told["data_fingerprint"][:FINGERPRINT_DIGITS]
    return flatten(told)


def _figures(runs: Sequence[RunSummary], manifests: Sequence[dict[str, Any]], evaluations: Sequence[dict[str, dict[str, Any]]]) -> Rows:
    def row(name: str, values: Sequence[float | None], form: str) -> list[str]:
        return [name, *("" if value is None else format(value, form) for value in values)]

    units = ", ".join(dict.fromkeys(each.unit for each in runs))
    parameters = [manifest.get("parameters") for manifest in manifests]
    rows = [
        ["state", *(each.state + (f" ({each.fault})" if each.fault else "") for each in runs)],
        ["parameters", *(amount(count) if isinstance(count, int) else "?" for count in parameters)],
        row("steps", [each.steps for each in runs], ",d"),
        ["tokens", *(amount(each.tokens) for each in runs)],
        row(f"training loss, last 20 steps ({units})", [each.loss_nats for each in runs], ".4f"),
        row(f"held-out loss ({units})", [each.val_loss_nats for each in runs], ".4f"),
        row("held out, bits per byte", [each.val_bits_per_byte for each in runs], ".4f"),
        row("held out, answers right", [each.val_accuracy for each in runs], ".2%"),
        row("tokens/s, of the middle step", [each.tokens_per_second for each in runs], ",.0f"),
        ["wall time of training", *(duration(each.wall_seconds) for each in runs)],
    ]
    told = [{(task, key): value for task, found in each.items() for key, value in found.items()} for each in evaluations]
    for task, key in dict.fromkeys(pair for each in told for pair in each):
        values = [each.get((task, key)) for each in told]
        told_already = key.startswith("val_") or key == "wall_seconds" or any(f"val_{key}" in each.get(task, {}) for each in evaluations)
        if not told_already and any(isinstance(value, float) for value in values):
            rows.append([f"{task}: {key}", *(_cell(value) if isinstance(value, int | float) else "" for value in values)])
    return [row for row in rows if any(row[1:])]


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, list | tuple):
        return ", ".join(map(_cell, value))
    return f"{value:.6g}" if isinstance(value, float) else str(value)
