"""`danlu train`: weights from scratch or from elsewhere, moved toward a text or toward the answers of examples."""

from __future__ import annotations

import json as encoder
import platform
import time
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from danlu.base.device import choose_device, choose_precision, computing_in, set_threads
from danlu.base.errors import ConfigError, DataError
from danlu.base.run import Run
from danlu.base.signals import stop_asked
from danlu.evaluation.loss import measure_text
from danlu.models.loading import Loaded, load_model
from danlu.training.checkpoint import Progress, load_training_state
from danlu.training.config import Extent, TrainingConfig, read_seconds
from danlu.training.lesson import Lesson, Wish, teach
from danlu.training.objective import held_out
from danlu.training.optimizer import make_optimizers
from danlu.training.session import Session
from danlu.training.watch import Watch


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training run came to; bits per byte where the next token is foretold, accuracy where examples are answered."""

    run: str
    model: str
    task: str
    steps: int
    tokens: int
    wall_seconds: float
    train_tokens_per_second: float
    train_loss_nats: float
    val_loss_nats: float | None
    val_bits_per_byte: float | None
    val_accuracy: float | None
    sample: str
    parameters: int
    precision: str


def train(
    start: str | Path,
    *,
    data: str | Path | None = None,
    task: str = "text",
    runs: str | Path = Path("runs"),
    name: str | None = None,
    steps: int | None = None,
    budget: str | None = None,
    epochs: float | None = None,
    optimizer: str = "auto",
    rate: float | None = None,
    batch_rows: int | None = None,
    context_length: int | None = None,
    whole_words: bool = False,
    truncate: bool = False,
    checkpoint_every: int | None = None,
    resume: bool = False,
    seed: int = 0,
    precision: str = "auto",
    threads: int | None = None,
    json: bool = False,
) -> Trained:
    """Train a model on text or on examples, from scratch or from weights that are there.

    The run's folder holds everything: settings, metrics.jsonl, TensorBoard curves, samples, checkpoints (each a Hugging Face
    folder) and final/, the model to take away. Ctrl-C saves and says how to go on.

    Parameters
    ----------
    start
        A size to begin from scratch (gpt/tiny, bert/tiny, seq2seq/tiny, rnn/tiny, rnn/gru-tiny; nano, mini, small and more), or a
        model to go on from: a run, a Hugging Face folder, a .gguf file, a catalog name.
    data
        Text: a folder made by `danlu prepare`, or raw files, which are prepared first, into the run. For a task: files of rows with
        the task's fields.
    task
        text: what the family learns from text (gpt and rnn the next token, bert hidden words and next sentences, seq2seq spans that were
        cut out). From rows: classify (text, label), regress (text, label as a number), label (tokens, tags), span (context, question,
        answers), translate (source, target).
    runs
        Where runs are kept.
    name
        The run's name; by default the start, the date and the time.
    steps
        How many steps to take; or give a budget or epochs.
    budget
        How long to train: 60s, 5m, 1h, counted from the command's start.
    epochs
        How many times to go through the data. Without steps, budget or epochs: once through a text, three times through examples.
    optimizer
        sgd (give it a --rate near 0.1), adam, adamw; muon: for blocks' matrices, adamw for the rest; auto: muon from scratch, else adamw.
    rate
        The highest rate (of adamw where muon has its own); by default it follows from the model's width.
    batch_rows
        Rows in a step; by default they follow from the size, and are 32 for examples.
    context_length
        Tokens that the model sees at once; by default the size's own.
    whole_words
        Hide whole words, not pieces of them (bert on text).
    truncate
        Cut examples that are longer than the context; without it they stop the training, since their answers may be lost.
    checkpoint_every
        Steps between checkpoints; by default ten in a run, at least 30 s apart in a run with a budget.
    resume
        Go on with the run of this name (or `danlu train RUN --resume`) from its newest whole checkpoint.
    seed
        Draws first weights and the order of the data.
    precision
        auto, float32 or bfloat16: the numbers that matrix products are made in.
    threads
        CPU threads; all cores unless given.
    json
        Print one JSON object at the end.
    """
    began = time.perf_counter()
    set_threads(threads)
    start, data, runs = str(start), None if data is None else str(data), Path(runs)
    extents = {"steps": steps, "budget": budget, "epochs": epochs}
    if sum(value is not None for value in extents.values()) > 1:
        raise ConfigError("several of --steps, --budget and --epochs came; expected one of them")
    if resume and name is None and Run(Path(start)).exists():
        run, settings = Run.open(Path(start)), Run.open(Path(start)).config
        settings |= extents if any(value is not None for value in extents.values()) else {}
    else:
        if data is None:
            raise ConfigError("training needs data: --data FOLDER (made by danlu prepare) or --data FILE")
        settings = {
            "start": start, "data": data, "task": task, "seed": seed, "optimizer": optimizer, "rate": rate, "batch_rows": batch_rows,
            "context_length": context_length, "whole_words": whole_words, "truncate": truncate, "precision": precision, **extents,
        }  # fmt: skip
        name = name or f"{Path(start).name}-{time.strftime('%Y%m%d-%H%M%S')}"
        run = _same_run(Run.open(runs / name), settings) if resume else Run.create(runs, name, settings)
    result = _train(run, settings, began, checkpoint_every)
    if json:
        print(encoder.dumps(asdict(result), ensure_ascii=False), flush=True)
    return result


def _train(run: Run, settings: dict[str, Any], began: float, checkpoint_every: int | None) -> Trained:
    torch.manual_seed(settings["seed"])
    device = choose_device()
    loaded, lesson, config = teach(Wish(**{key: settings[key] for key in Wish.__dataclass_fields__}), run.data)
    module = loaded.module.to(device)
    seconds = read_seconds(settings["budget"]) if settings["budget"] else None
    passes = settings["epochs"] if settings["epochs"] is not None else 3 if lesson.answers else 1
    one_pass = lesson.objective.steps_an_epoch
    extent = Extent(steps=None if seconds else settings["steps"] or max(1, round(passes * one_pass)), seconds=seconds)
    chosen, why = choose_precision(settings["precision"], device)
    progress = Progress(precision=chosen, seconds=time.perf_counter() - began if seconds else 0.0)
    optimizers = make_optimizers(module, config)
    checkpoint = run.newest_checkpoint()
    if checkpoint is not None:
        if run.manifest.get("data_fingerprint") != lesson.fingerprint:
            raise DataError(f"{settings['data']} has changed since {run.folder} began; restore it, or begin another --name")
        module.load_state_dict(load_model(str(checkpoint)).module.state_dict())
        progress = load_training_state(checkpoint, module, optimizers)
        run.forget_after(progress.step)
    first = Progress(**asdict(progress))
    parameters = sum(parameter.numel() for parameter in module.parameters())
    run.write_manifest(_manifest(settings, config, loaded, progress, parameters, lesson.fingerprint))
    with Watch(extent, run.tensorboard) as watch, stop_asked("saving after this step") as stopped:
        watch.say(
            f"{settings['start']}: {parameters / 1e6:.1f} M weights, {config.batch_rows} rows of {config.context_length} tokens a step, "
            f"rate {config.rate:g}, {chosen} ({why}), {torch.get_num_threads()} threads -> {run.folder}"
        )
        if checkpoint is not None:
            watch.say(f"going on after step {progress.step:,} from {checkpoint}")
        session = Session(run, loaded, lesson, config, extent, progress, watch)
        session.go(optimizers, checkpoint_every, stopped)
        trained_seconds = progress.seconds - first.seconds
        measured = _validate(loaded, lesson, config, progress)
        if measured:
            run.log(kind="evaluation", step=progress.step, **{name: value for name, value in measured.items() if name.startswith("val_")})
            run.write_evaluation("loss", measured)
            watch.curve("val_loss_nats", measured["val_loss_nats"], progress.step)
        result = Trained(
            run=str(run.folder),
            model=str(run.final),
            task=settings["task"],
            steps=progress.step,
            tokens=progress.tokens,
            wall_seconds=round(time.perf_counter() - began, 2),
            train_tokens_per_second=round((progress.tokens - first.tokens) / trained_seconds, 1) if progress.step > first.step else 0.0,
            train_loss_nats=sum(session.losses[-20:]) / max(len(session.losses[-20:]), 1),
            val_loss_nats=measured.get("val_loss_nats"),
            val_bits_per_byte=measured.get("val_bits_per_byte"),
            val_accuracy=measured.get("val_accuracy"),
            sample=session.sample(),
            parameters=parameters,
            precision=chosen,
        )
        _tell(result, watch)
    return result


def _same_run(run: Run, settings: dict[str, Any]) -> Run:
    """Refuse to go on with other settings than the run began with; only its end may move."""
    before = run.config
    changed = [key for key, value in settings.items() if key not in ("steps", "budget", "epochs") and before.get(key) != value]
    if changed:
        what = ", ".join(f"{key} {before.get(key)!r} -> {settings[key]!r}" for key in changed)
        raise ConfigError(f"{run.folder} was begun with other settings ({what}); give the same ones, or begin another --name")
    return run


def _validate(loaded: Loaded, lesson: Lesson, config: TrainingConfig, progress: Progress) -> dict[str, Any]:
    """How good the model is on what was held out; nothing if nothing was."""
    if lesson.text is not None and loaded.family.pretraining == "next-token":
        text = lesson.text
        if not text.tokens("validation"):
            return {}
        pieces, size = text.split("validation"), text.bytes("validation")
        found = measure_text(loaded.module, pieces, size, text.separator_id, progress.precision, config.context_length, show=False)
        return {"split": "validation", **asdict(found), "val_loss_nats": found.loss_nats, "val_bits_per_byte": found.bits_per_byte}
    if lesson.held_out is None:
        return {}
    device = next(loaded.module.parameters()).device
    loss, right = held_out(lesson.held_out, loaded.module, lambda: computing_in(progress.precision, device))
    return {"split": "validation", "val_loss_nats": loss} | ({"val_accuracy": right} if lesson.answers else {})


def _manifest(
    settings: dict[str, Any], config: TrainingConfig, loaded: Loaded, progress: Progress, parameters: int, data: str
) -> dict[str, Any]:
    return {
        "settings": settings,
        "training": asdict(config),
        "model": asdict(loaded.config),
        "parameters": parameters,
        "precision": progress.precision,
        "threads": torch.get_num_threads(),
        "data_fingerprint": data,
        "versions": {"danlu": version("danlu"), "torch": torch.__version__, "python": platform.python_version()},
        "machine": platform.machine(),
    }


def _tell(result: Trained, watch: Watch) -> None:
    held_out = ""
    if result.val_bits_per_byte is not None:
        held_out = f", validation {result.val_bits_per_byte:.3f} bits per byte"
    elif result.val_loss_nats is not None:
        held_out = f", validation loss {result.val_loss_nats:.3f}"
    if result.val_accuracy is not None:
        held_out += f", {result.val_accuracy:.1%} of answers right"
    watch.say(
        f"{result.steps:,} steps, {result.tokens:,} tokens at {result.train_tokens_per_second:,.0f} tokens/s in {result.wall_seconds:.0f} s"
        f"{held_out}\ntake it away: {result.model}" + (f"\ntry it: danlu generate {result.run} 'Once'" if result.sample else "")
    )
