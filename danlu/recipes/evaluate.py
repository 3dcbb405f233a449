"""`danlu evaluate`: how good a model is, on a text or at a task, and which of several is better."""

from __future__ import annotations

import json as encoder
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from danlu.base.device import set_threads
from danlu.base.errors import ConfigError
from danlu.base.late import late
from danlu.base.run import Run
from danlu.evaluation.answerers.choosing import foremost, joined
from danlu.evaluation.answerers.ensemble import Members
from danlu.evaluation.perplexity.source import measure_source
from danlu.training.config import read_sources

TEXT = ("loss", "text")  # what the measure of a text is called


def evaluate(
    model: str | None = None,
    *,
    task: str | None = None,
    data: tuple[str, ...] | str | Path = (),
    split: str | None = None,
    examples: tuple[str, ...] | str | Path = (),
    shots: int = 0,
    shots_by: str = "random",
    by: str = "sum",
    limit: int | None = None,
    truncate: bool = False,
    threshold: float | None = None,
    compare: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative=())] = (),
    out: Path | None = None,
    context_length: int | None = None,
    precision: str = "float32",
    threads: int | None = None,
    seed: int = 0,
    json: bool = False,
) -> Any:
    """Measure a model on a text or at a task; scores come with 95% intervals, every sample is kept, and a report is written.

    A text: loss, perplexity and bits per byte, each token foretold once from the text before it in its window. A task: the scores of
    its kind (accuracy, F1, ...), report.html, samples.jsonl and evaluation.json, in the run's evaluation/TASK or in --out.

    Parameters
    ----------
    model
        A run, an ensemble's folder, a Hugging Face folder, a .gguf file, a catalog name, hf:owner/name, a remote endpoint as
        api:URL#model, or `baseline`: what reaches the task's score without any Transformer. Several answer together as
        runs/a+runs/b+baseline.
    task
        loss; a task that brings its data (sentiment-en, squad-en, arc-easy, ...), a kind (classify, label, span, ...) with --data, or
        tasks.py:NAME. By default what the run was trained for.
    data
        For loss: a prepared folder, or a text file that is taken as it is; by default the text that a run was trained on. For a task:
        files of rows with its fields; by default the task's own.
    split
        Which part: of a prepared folder validation (unless given), test or train; of a task test (unless given), train or all.
    examples
        Files of solved rows, beside --data: what a baseline learns from, and where the shots in a prompt come from. By default the
        task's own training part.
    shots
        Examples in a language model's prompt.
    shots_by
        How they are chosen: random, balanced (of each label as many), or nearest (to what is asked).
    by
        How a language model chooses: by the log-likelihood of each choice (sum), the same by the choice's length (mean: what lm-eval
        calls acc_norm), or by what it writes (generation).
    limit
        Measure the first rows only.
    truncate
        Cut texts that the model cannot read whole, and count them.
    threshold
        For two classes: figures where the second class is chosen from this score on.
    compare
        Evaluations, or runs that were evaluated on the same data (with --task where they have several): figures side by side and paired
        tests; instead of a model.
    out
        Folder for report, samples and figures; by default in the run, or evaluations/MODEL-TASK.
    context_length
        Length of a text's windows; by default what the model was trained for, 1024 at most.
    precision
        float32, bfloat16 or auto. Of a language model that is prompted also int8 and int4: answers and likelihoods in these, as it would
        be served; auto writes answers as it is served, and computes likelihoods in float32.
    threads
        CPU threads; all cores unless given.
    seed
        Draws the examples in prompts and the intervals.
    json
        Print one JSON object at the end.
    """
    set_threads(threads)
    of_rows = {
        "--examples": (examples, ()), "--shots": (shots, 0), "--shots-by": (shots_by, "random"), "--by": (by, "sum"),
        "--limit": (limit, None), "--threshold": (threshold, None), "--truncate": (truncate, False),
    }  # fmt: skip
    if compare:
        of_models = of_rows | {"--data": (data, ()), "--split": (split, None), "--context-length": (context_length, None)}
        _nothing("to --compare, which reads evaluations that are there", of_models)
        if model is not None:
            compare = (model, *compare)
        comparing = late("danlu.recipes.evaluations", "evaluate")  # scikit-learn takes a second to import
        return comparing.compare(compare, task, out or Path("comparison"), json)
    if model is None:
        raise ConfigError("no model came; expected danlu evaluate MODEL --task TASK, or danlu evaluate --compare A B")
    sources, solved = ((str(given),) if isinstance(given, str | Path) else tuple(map(str, given)) for given in (data, examples))
    wanted = task or _trained_for(model)
    if wanted not in TEXT:
        if context_length is not None:
            raise ConfigError("--context-length is for texts; rows are read whole, or cut to what the model reads with --truncate")
        measuring = late("danlu.recipes.evaluations", "evaluate")
        asking = {"truncate": truncate, "precision": precision, "shots": shots, "shots_by": shots_by, "by": by, "seed": seed}
        rows = {"data": sources, "examples": solved, "part": split, "limit": limit, "threshold": threshold, "seed": seed}
        return measuring.measure_task(model, wanted, out, asking, rows, json)
    if len(joined(model)) > 1:
        raise ConfigError(f"{model} joins models, and a text is measured by one; name one, or a --task that all of them answer")
    _nothing("to a text; for rows name a --task", of_rows | {"--out": (out, None)})
    if context_length is not None and context_length < 1:
        raise ConfigError(f"--context-length came as {context_length}; expected a positive number of tokens")
    if len(sources) > 1:
        raise ConfigError(f"--data came as {', '.join(sources)}; a text is measured from one source")
    result = measure_source(model, sources[0] if sources else _data_of(model), split, context_length, precision)
    if Run(Path(model)).exists():
        Run(Path(model)).write_evaluation("loss", asdict(result))
    print(encoder.dumps(asdict(result), ensure_ascii=False) if json else result, flush=True)
    return result


def _nothing(what: str, given: dict[str, tuple[Any, Any]]) -> None:
    """Raises: ConfigError if any of the flags, each with its default, came though it does nothing there."""
    if useless := [flag for flag, (value, default) in given.items() if value != default]:
        raise ConfigError(f"{', '.join(useless)} {'does' if len(useless) == 1 else 'do'} nothing {what}")


def _trained_for(model: str) -> str:
    """What a run or an ensemble was trained for, or the first of several; loss for all else."""
    model = foremost(model)
    members = Members.read(Path(model))
    if members is not None:
        return members.task
    run = Run(Path(model))
    return str(run.config.get("task", "loss")) if run.exists() else "loss"


def _data_of(model: str) -> str:
    run = Run(Path(model))
    if not run.exists():
        raise ConfigError(f"{model} is no run, so its text is not known: give --data FILE or a prepared folder")
    if run.data.is_dir():
        return str(run.data)
    given = run.config["data"]
    sources = [name for name, _ in read_sources([given] if isinstance(given, str) else given)]
    if len(sources) > 1:
        raise ConfigError(f"{model} was trained on {', '.join(sources)}; name one with --data")
    return sources[0]
