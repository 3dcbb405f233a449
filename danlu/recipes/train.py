"""`danlu train`: weights from scratch or from elsewhere, moved toward a text."""

from __future__ import annotations

import json as encoder
import platform
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

from danlu.base.device import choose_device, choose_precision, set_threads
from danlu.base.errors import CheckpointError, ConfigError, DataError
from danlu.base.run import Run
from danlu.data import preparation
from danlu.data.batches import Batches
from danlu.data.prepared import Prepared, open_prepared
from danlu.evaluation.loss import TextLoss, measure_text
from danlu.inference.model import Model
from danlu.inputs.tokenizer import Tokenizer
from danlu.models.loading import Loaded, families, load_model, save_model
from danlu.training.checkpoint import Progress, load_training_state, save_training_state
from danlu.training.config import Extent, TrainingConfig, read_seconds
from danlu.training.loop import StepReport, train_steps
from danlu.training.optimizer import make_optimizers
from danlu.training.watch import Watch

SAMPLE_TOKENS = 48
CHECKPOINT_SECONDS = 30.0  # at least, between two, unless --checkpoint-every says otherwise
SAMPLES = 4  # on the way, beside the last


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What a training run came to."""

    run: str
    model: str
    steps: int
    tokens: int
    wall_seconds: float
    train_tokens_per_second: float
    train_loss_nats: float
    val_loss_nats: float | None
    val_bits_per_byte: float | None
    sample: str
    parameters: int
    precision: str


def train(
    start: str,
    *,
    data: str | None = None,
    task: str = "text",
    runs: Path = Path("runs"),
    name: str | None = None,
    steps: int | None = None,
    budget: str | None = None,
    optimizer: str = "auto",
    rate: float | None = None,
    batch_rows: int | None = None,
    context_length: int | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    seed: int = 0,
    precision: str = "auto",
    threads: int | None = None,
    json: bool = False,
) -> Trained:
    """Train a model on prepared text, from scratch or from weights that are there.

    The run's folder holds everything: settings, metrics.jsonl, TensorBoard curves, samples, checkpoints (each a Hugging Face
    folder) and final/, the model to take away. Ctrl-C saves and says how to go on.

    Parameters
    ----------
    start
        A size to begin from scratch (gpt/nano, gpt/tiny, gpt/mini, gpt/small, ... gpt/7b), or a model to go on from: a run, a
        Hugging Face folder, a .gguf file, a catalog name.
    data
        A folder made by `danlu prepare`; raw files or folders are prepared first, into the run.
    task
        What is learned: "text" foretells the next token. More come with later versions.
    runs
        Where runs are kept.
    name
        The run's name; by default the start, the date and the time.
    steps
        How many steps to take; or give a budget.
    budget
        How long to train: 60s, 5m, 1h, counted from the command's start. Without steps or budget: one pass over the text.
    optimizer
        sgd (give it a --rate near 0.1), adam, adamw; muon: for blocks' matrices, adamw for the rest; auto: muon from scratch, else adamw.
    rate
        The highest rate (of adamw where muon has its own); by default it follows from the model's width.
    batch_rows
        Rows of context_length tokens in a step; by default they follow from the size.
    context_length
        Tokens that the model sees at once; by default the size's own.
    checkpoint_every
        Steps between checkpoints; by default ten in a run, at least 30 s apart in a run with a budget.
    resume
        Go on with the run of this name (or `danlu train RUN --resume`) from its newest whole checkpoint.
    seed
        Draws first weights and the order of the text.
    precision
        auto, float32 or bfloat16: the numbers that matrix products are made in.
    threads
        CPU threads; all cores unless given.
    json
        Print one JSON object at the end.
    """
    began = time.perf_counter()
    set_threads(threads)
    if task != "text":
        raise ConfigError(f"--task came as {task!r}; this version trains 'text'")
    if resume and name is None and Run(Path(start)).exists():
        run, settings = Run.open(Path(start)), Run.open(Path(start)).config
        settings |= {key: value for key, value in {"steps": steps, "budget": budget}.items() if value is not None}
    else:
        if data is None:
            raise ConfigError("training needs text: --data FOLDER (made by danlu prepare) or --data FILE")
        settings = {
            "start": start, "data": data, "seed": seed, "optimizer": optimizer, "rate": rate, "batch_rows": batch_rows,
            "context_length": context_length, "steps": steps, "budget": budget, "precision": precision,
        }  # fmt: skip
        if steps is not None and budget is not None:
            raise ConfigError("--steps and --budget both came; expected one of them")
        name = name or f"{Path(start).name}-{time.strftime('%Y%m%d-%H%M%S')}"
        run = _same_run(Run.open(runs / name), settings) if resume else Run.create(runs, name, settings)
    text = _open_data(str(settings["data"]), run, seed=settings["seed"])
    result = _train(run, settings, text, began, checkpoint_every)
    if json:
        print(encoder.dumps(asdict(result), ensure_ascii=False), flush=True)
    return result


def _train(run: Run, settings: dict[str, Any], text: Prepared, began: float, checkpoint_every: int | None) -> Trained:
    torch.manual_seed(settings["seed"])
    loaded = _starting_model(str(settings["start"]), text, settings["context_length"])
    device = choose_device()
    module, tokenizer = loaded.module.to(device), loaded.tokenizer
    assert tokenizer is not None
    config = _training_config(loaded, settings)
    batches = Batches(text.split("train"), config.context_length, config.batch_rows, settings["seed"])
    one_pass = max(1, text.tokens("train") // (config.batch_rows * config.context_length))
    seconds = read_seconds(settings["budget"]) if settings["budget"] and settings["steps"] is None else None
    extent = Extent(steps=None if seconds else settings["steps"] or one_pass, seconds=seconds)
    chosen, why = choose_precision(settings["precision"], device)
    progress = Progress(precision=chosen, seconds=time.perf_counter() - began if seconds else 0.0)
    optimizers = make_optimizers(module, config)
    checkpoint = run.newest_checkpoint()
    if checkpoint is not None:
        if run.manifest.get("data_fingerprint") != text.fingerprint:
            raise DataError(f"{text.folder} has changed since {run.folder} began; restore it, or begin another --name")
        restored = load_model(str(checkpoint)).module.state_dict()
        module.load_state_dict(restored)
        progress = load_training_state(checkpoint, module, optimizers)
        run.forget_after(progress.step)
    first_step, first_seconds, first_tokens = progress.step, progress.seconds, progress.tokens
    parameters = sum(parameter.numel() for parameter in module.parameters())
    run.write_manifest(_manifest(settings, config, loaded, progress, parameters, text.fingerprint))

    def write(folder: Path) -> None:
        save_model(module, loaded.family, tokenizer, folder)

    def write_all(folder: Path) -> None:
        write(folder)
        save_training_state(folder, module, optimizers, progress)

    def sample() -> str:
        model = Model(replace(loaded, module=module))
        try:
            return model.generate("", max_tokens=min(SAMPLE_TOKENS, config.context_length // 2), temperature=0.8, seed=0).text
        finally:
            model.close()
            module.train()

    with Watch(extent, run.tensorboard) as watch, _stop_signals() as stopped:
        watch.say(
            f"{settings['start']}: {parameters / 1e6:.1f} M weights, {config.batch_rows} x {config.context_length} tokens a step, "
            f"rate {config.rate:g}, {chosen} ({why}), {torch.get_num_threads()} threads -> {run.folder}"
        )
        if checkpoint is not None:
            watch.say(f"going on after step {progress.step:,} from {checkpoint}")
        saved_at = sampled_at = extent.done(progress.step, progress.seconds)
        saved_time = time.perf_counter()
        losses: list[float] = []

        def after_step(report: StepReport) -> bool:
            nonlocal saved_at, saved_time, sampled_at
            run.log(**asdict(report))
            watch.step(report)
            losses.append(report.loss_nats)
            done = extent.done(report.step, report.wall_seconds)
            rested = time.perf_counter() - saved_time > CHECKPOINT_SECONDS
            due = report.step % checkpoint_every == 0 if checkpoint_every else done - saved_at >= 0.1 and rested
            if (due and done < 1) or stopped():
                _save(run, progress.step, write_all, watch)
                saved_at, saved_time = done, time.perf_counter()
            if done - sampled_at >= 1 / (SAMPLES + 1) and done < 1 and not stopped():
                sampled_at = done
                run.write_sample(report.step, sample())
            return not stopped()

        train_steps(module, optimizers, batches, config, extent, progress, after_step)
        if stopped():
            raise KeyboardInterrupt(f"saved after step {progress.step:,}; go on with: danlu train {run.folder} --resume")
        _save(run, progress.step, write_all, watch)  # before evaluation, which may fail alone
        try:
            run.save_final(write)
        except OSError as error:
            raise CheckpointError(f"{run.final} could not be written ({error.strerror}); make room and run again with --resume") from None
        trained_seconds = progress.seconds - first_seconds
        measured = _validate(module, text, config.context_length, progress)
        if measured:
            run.log(kind="evaluation", step=progress.step, val_loss_nats=measured.loss_nats, val_bits_per_byte=measured.bits_per_byte)
            run.write_evaluation("loss", {"split": "validation", **asdict(measured)})
            watch.curve("val_bits_per_byte", measured.bits_per_byte, progress.step)
        last = sample()
        run.write_sample(progress.step, last)
        result = Trained(
            run=str(run.folder),
            model=str(run.final),
            steps=progress.step,
            tokens=progress.tokens,
            wall_seconds=round(time.perf_counter() - began, 2),
            train_tokens_per_second=round((progress.tokens - first_tokens) / trained_seconds, 1) if progress.step > first_step else 0.0,
            train_loss_nats=sum(losses[-20:]) / max(len(losses[-20:]), 1),
            val_loss_nats=measured.loss_nats if measured else None,
            val_bits_per_byte=measured.bits_per_byte if measured else None,
            sample=last,
            parameters=parameters,
            precision=chosen,
        )
        _tell(result, watch)
    return result


def _starting_model(start: str, text: Prepared, context_length: int | None) -> Loaded:
    """A new model of a size, with the tokenizer of the text; or one that is there, whose tokenizer must be the text's."""
    tokenizer = Tokenizer.load(text.tokenizer_folder)
    family = families().get(start.split("/")[0])
    if family is not None and "/" in start and not Path(start).exists():
        config = family.sizes(start.split("/", 1)[1], tokenizer.vocabulary_size, context_length)
        return Loaded(name=start, path=Path(start), family=family, config=config, module=family.build(config), tokenizer=tokenizer)
    loaded = load_model(start)
    if loaded.tokenizer is None or loaded.tokenizer.fingerprint != tokenizer.fingerprint:
        raise DataError(f"{text.folder} was tokenized for another model than {start}; prepare it with --tokenizer {start}")
    return loaded


def _training_config(loaded: Loaded, settings: dict[str, Any]) -> TrainingConfig:
    """The dial's defaults, and what was asked for instead."""
    scratch = loaded.path == Path(loaded.name) and not loaded.path.exists()
    context = min(settings["context_length"] or min(loaded.config.context_length, 1024), loaded.config.context_length)
    defaults = loaded.family.recipe(loaded.config, scratch)
    return TrainingConfig(
        optimizer=("muon" if scratch else "adamw") if settings["optimizer"] == "auto" else settings["optimizer"],
        rate=settings["rate"] if settings["rate"] is not None else defaults.rate,
        batch_rows=settings["batch_rows"] or max(1, defaults.batch_tokens // context),
        context_length=context,
    )


def _open_data(data: str, run: Run, seed: int) -> Prepared:
    path = Path(data)
    if (path / "manifest.json").is_file() or (path / ".work").is_dir():
        return open_prepared(path)
    preparation.run(preparation.Plan(sources=(data,), out=run.data, seed=seed))
    return open_prepared(run.data)


def _same_run(run: Run, settings: dict[str, Any]) -> Run:
    """Refuse to go on with other settings than the run began with; only its end may move."""
    before = run.config
    changed = [key for key, value in settings.items() if key not in ("steps", "budget") and before.get(key) != value]
    if changed:
        what = ", ".join(f"{key} {before.get(key)!r} -> {settings[key]!r}" for key in changed)
        raise ConfigError(f"{run.folder} was begun with other settings ({what}); give the same ones, or begin another --name")
    return run


def _save(run: Run, step: int, write: Callable[[Path], None], watch: Watch) -> None:
    """A checkpoint that cannot be written must not end the training: the older ones are still whole."""
    try:
        run.save_checkpoint(step, write)
    except OSError as error:
        watch.say(f"danlu: the checkpoint of step {step} was not saved ({error.strerror}); training goes on, make room")


def _validate(module: nn.Module, text: Prepared, context: int, progress: Progress) -> TextLoss | None:
    if not text.tokens("validation"):
        return None
    pieces, size = text.split("validation"), text.bytes("validation")
    return measure_text(module, pieces, size, text.separator_id, progress.precision, context, show=False)


def _manifest(
    settings: dict[str, Any], config: TrainingConfig, loaded: Loaded, progress: Progress, parameters: int, data: Any
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
    held_out = f", validation {result.val_bits_per_byte:.3f} bits per byte" if result.val_bits_per_byte is not None else ""
    watch.say(
        f"{result.steps:,} steps, {result.tokens:,} tokens at {result.train_tokens_per_second:,.0f} tokens/s in {result.wall_seconds:.0f} s"
        f"{held_out}\ntake it away: {result.model}\ntry it: danlu generate {result.run} 'Once'"
    )


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Ctrl-C and SIGTERM end the run after the step under way; a second one ends it at once."""
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        print("danlu: saving after this step; once more to stop at once", file=sys.stderr, flush=True)

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
