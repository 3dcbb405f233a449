"""`danlu train`: weights from scratch or from elsewhere, moved toward a text or toward the answers of examples."""

from __future__ import annotations

import json as encoder
import math
import platform
import statistics
import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from danlu.base.device import choose_device, choose_precision, computing_in, set_threads
from danlu.base.errors import ConfigError, DataError
from danlu.base.late import late
from danlu.base.options import spread
from danlu.base.run import Run, check_name, sole_writer
from danlu.base.signals import stop_asked
from danlu.evaluation.perplexity.loss import measure_text
from danlu.models.loading import Loaded, restore
from danlu.nn.habits import set_habits
from danlu.reports.curve import draw_svg
from danlu.reports.summary import read_curve, unit_of
from danlu.tasks.loading import find_task
from danlu.training.average import Average
from danlu.training.checkpoint import Progress, load_training_state, read_progress
from danlu.training.config import LOSS, Extent, Options, TrainingConfig, read_seconds
from danlu.training.goal import Goal
from danlu.training.lesson import Lesson, teach
from danlu.training.objective import held_out
from danlu.training.optimizer import make_optimizers
from danlu.training.profile import Profile
from danlu.training.session import Session
from danlu.training.team import Team
from danlu.training.watch import Watch

OPTIONS = tuple(field.name for field in fields(Options))
EXTENT = ("steps", "budget", "epochs")
CHOSEN = ("rate", "warmup", "clip", "batch_rows", "accumulate")  # options that follow from model, data and machine unless asked for
VALIDATION = 0.1  # of a budget: as long the last look at a text that was held out may take, on top
BACK_AND_FORTH = 3  # passes forward that a step of training costs as much as
LEAST_TOKENS = 4096
EPOCHS, FEW_STEPS = (3, 10), 400  # through examples: three times, or as often as so many steps take, ten times at most


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
    val_tokens: int | None
    sample: str
    parameters: int
    precision: str

    def _repr_html_(self) -> str:
        """The run's curve, for a notebook."""
        held_out = f", held out {self.val_loss_nats:.3f}" if self.val_loss_nats is not None else ""
        title = f"{self.run}: {self.steps:,} steps, loss {self.train_loss_nats:.3f} {unit_of(self.task)}{held_out}"
        return draw_svg([read_curve(Run(Path(self.run)), self.run, unit_of(self.task))], title=title)


@spread(Options)
def train(
    start: str | Path,
    *,
    runs: str | Path = Path("runs"),
    name: str | None = None,
    checkpoint_every: int | None = None,
    resume: bool = False,
    threads: int | None = None,
    profile: bool = False,
    folds: int | None = None,
    ensemble: str = "average",
    json: bool = False,
    **options: Any,
) -> Trained | Any:
    """Train a model on text or on examples, from scratch or from weights that are there.

    The run's folder holds everything: settings, metrics.jsonl, TensorBoard curves, samples, checkpoints (each a Hugging Face
    folder) and final/, the model to take away. Ctrl-C saves and says how to go on.

    Parameters
    ----------
    start
        A size to begin from scratch (gpt/tiny, bert/tiny, seq2seq/tiny, rnn/tiny, rnn/gru-tiny; nano, mini, small and more), or a
        model to go on from: a run, a Hugging Face folder, a .gguf file, a catalog name.
    runs
        Where runs are kept.
    name
        The run's name; by default the start, the date and the time.
    checkpoint_every
        Steps between checkpoints; by default a tenth of the run, and at least 30 s.
    resume
        Go on with the run of this name (or `danlu train RUN --resume`) from its newest whole checkpoint.
    threads
        CPU threads; all cores unless given.
    profile
        Record steps 4 to 8 and tell where their time goes, beside what this machine's matrix products allow; kept in the run's profile/.
    folds
        Train so many models of a task, measure each on rows that it did not see, and keep them as one that answers together.
    ensemble
        What the members of --folds learn. average: all but one fold each; bagging: rows drawn with replacement; boosting: rows drawn
        by how wrong the members before were.
    json
        Print one JSON object at the end.
    """
    began = time.perf_counter()
    set_threads(threads)
    if folds is not None:
        wish = Options(**options)
        name = name or f"{Path(str(start)).name}-{time.strftime('%Y%m%d-%H%M%S')}"
        if profile:
            raise ConfigError("--profile came with --folds; it is for one model: leave --folds out")
        how: dict[str, Any] = {"checkpoint_every": checkpoint_every, "threads": threads}
        folding = late("danlu.recipes.folds", "evaluate")  # scikit-learn takes a second to import
        check_name(name)
        return folding.train_folds(partial(_member, start, **how), str(start), wish, Path(runs) / name, folds, ensemble, resume, json)
    if ensemble != "average":
        raise ConfigError(f"--ensemble came as {ensemble} without --folds; say how many models there are to be, such as --folds 5")
    if checkpoint_every is not None and checkpoint_every < 1:
        raise ConfigError(f"--checkpoint-every came as {checkpoint_every}; expected a positive number of steps")
    begin, runs = str(start), Path(runs)
    wish, team = Options(**options), Team()
    going_on = resume and name is None and Run(Path(begin)).exists()
    name = name or team.agree(f"{Path(begin).name}-{time.strftime('%Y%m%d-%H%M%S')}")
    check_name(name)
    place = Path(begin) if going_on else runs / name
    with sole_writer(place) if team.leads else nullcontext():
        result = _begin(begin, wish, place, going_on, resume, began, checkpoint_every, team, profile)
        team.leave()
    if json and team.leads:
        print(encoder.dumps(asdict(result), ensure_ascii=False), flush=True)
    return result


def _begin(
    begin: str, wish: Options, place: Path, going_on: bool, resume: bool, began: float, checkpoint_every: int | None, team: Team,
    profile: bool,
) -> Trained:  # fmt: skip
    """Make the run, or open it, and train."""
    if going_on:
        run = Run.open(place)
        begin, before = run.config["start"], Options(**{key: run.config[key] for key in OPTIONS if key in run.config})
        extent = {key: getattr(wish, key) for key in EXTENT}
        others = {key: value for key in OPTIONS if (value := getattr(wish, key)) != getattr(Options(), key)}
        _same_run(run, others)
        wish = replace(before, **extent) if any(value is not None for value in extent.values()) else before
    else:
        if not wish.data and (wish.task == "text" or not find_task(wish.task).sources):
            raise ConfigError("training needs data: --data FOLDER (made by danlu prepare) or --data FILE")
        settings = {"start": begin, **asdict(wish)}
        with team.in_turn():
            fresh = not resume and team.leads
            run = Run.create(place.parent, place.name, settings) if fresh else _same_run(Run.open(place), settings)
    return _train(run, begin, wish, began, checkpoint_every, team, profile)


def _member(start: str | Path, folder: Path, name: str, wish: Options, *, checkpoint_every: int | None, threads: int | None) -> str:
    """Train one member of an ensemble, or go on with it; one that is there is left as it is."""
    run = Run(folder / name)
    if not run.final_at:
        how: dict[str, Any] = {"checkpoint_every": checkpoint_every, "threads": threads, "resume": run.exists()}
        train(start, runs=folder, name=name, **how, **asdict(wish))
    return str(run.folder)


def _train(run: Run, start: str, wish: Options, began: float, checkpoint_every: int | None, team: Team, profile: bool) -> Trained:
    torch.manual_seed(wish.seed)
    device = choose_device()
    with team.in_turn():  # the leader prepares raw text, the others find it prepared
        loaded, lesson, config = teach(start, _as_begun(run, wish), run.data)
    module = loaded.module.to(device)
    set_habits(module, dropout=config.dropout, recompute=config.recompute)
    if config.patience and lesson.held_out is None:
        raise ConfigError("--patience came, but nothing is held out to measure on; prepare the data with a larger --validation")
    extent = _extent(wish, lesson)
    chosen, why = choose_precision(wish.precision, device)
    threads = torch.get_num_threads()
    progress = Progress(precision=chosen, processes=team.size, threads=threads, seconds=time.perf_counter() - began if wish.budget else 0.0)
    checkpoint = run.newest_checkpoint()
    if checkpoint is not None and read_progress(checkpoint).precision != chosen:
        chosen, why = read_progress(checkpoint).precision, "as the run began"
    optimizers = make_optimizers(module, config, chosen)
    average = Average(module, config.average) if config.average else None
    if checkpoint is not None:
        if run.manifest.get("data_fingerprint") != lesson.fingerprint:
            raise DataError(f"{', '.join(wish.data)} has changed since {run.folder} began; restore it, or begin another --name")
        restore(loaded, checkpoint)
        progress = load_training_state(checkpoint, module, optimizers, average)
        if any(run.manifest.get("settings", {}).get(key) != getattr(wish, key) for key in EXTENT):
            progress.worse = 0  # more was asked for than that it stopped early
    before, progress.processes, progress.threads = (progress.processes, progress.threads), team.size, threads
    team.draw_apart(wish.seed, progress.step)
    first, goal = Progress(**vars(progress)), _goal(wish, loaded, lesson)
    parameters = sum(parameter.numel() for parameter in module.parameters())
    learning = sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad)
    some = f" ({learning:,} of them learn)" if learning < parameters else ""
    with Watch(extent, run.tensorboard, quiet=not team.leads) as watch, stop_asked("saving after this step") as stopped:
        processes = f"{team.size} processes of " if team.size > 1 else ""
        watch.say(
            f"{start}: {parameters / 1e6:.1f} M weights{some}, {config.batch_rows} rows of {config.context_length} tokens a step, "
            f"rate {config.rate:g}, {chosen} ({why}), {processes}{threads} threads -> {run.folder}"
        )
        if checkpoint is not None:
            watch.say(f"going on after step {progress.step:,} from {checkpoint}")
            if before != (team.size, threads):
                was = f"{before[0]} processes of {before[1]} threads"
                watch.say(
                    f"danlu: it was trained by {was} so far: going on is correct, but not to the bit, since sums add in another order"
                )
        if team.leads:
            run.forget_after(progress.step)
            run.write_manifest(_manifest({"start": start, **asdict(wish)}, config, loaded, progress, parameters, lesson.fingerprint))
            if lesson.inputs:
                run.write_inputs({*lesson.inputs, *Run.holding(Path(start)).inputs()})  # what the start has seen is not forgotten
        session = Session(run, loaded, lesson, config, extent, progress, watch, team, optimizers, average, goal)
        if profile and team.leads:
            session.profile = Profile(run.profile, watch.say)
            session.lesson = replace(lesson, objective=session.profile.loading(lesson.objective))
        with session.profile or nullcontext():
            session.go(checkpoint_every, stopped)
        trained_seconds = progress.seconds - first.seconds
        measured = _validate(loaded, lesson, config, progress, extent) if team.leads else {}
        if measured:
            found = {name: value for name, value in measured.items() if name.startswith("val_")}
            run.log(kind="evaluation", step=session.final_step, final=True, **found)
            run.write_evaluation("loss", measured)
            watch.curve("val_loss_nats", measured["val_loss_nats"], session.final_step)
        result = Trained(
            run=str(run.folder),
            model=str(run.final),
            task=wish.task,
            steps=progress.step,
            tokens=progress.tokens,
            wall_seconds=round(time.perf_counter() - began, 2),
            train_tokens_per_second=round((progress.tokens - first.tokens) / trained_seconds, 1) if progress.step > first.step else 0.0,
            train_loss_nats=statistics.fmean(progress.health.recent or [math.nan]),  # of the last twenty steps
            val_loss_nats=measured.get("val_loss_nats"),
            val_bits_per_byte=measured.get("val_bits_per_byte"),
            val_accuracy=measured.get("val_accuracy"),
            val_tokens=measured.get("val_tokens"),
            sample=session.sample() if team.leads else "",
            parameters=parameters,
            precision=progress.precision,
        )
        if team.leads:
            _tell(result, watch, measured.get("tokens_in_all"))
    return result


def _as_begun(run: Run, wish: Options) -> Options:
    """What was asked, and what the run chose by itself when it began: another version, or less free memory, may choose otherwise."""
    chosen = run.manifest.get("training", {}) if run.manifest_file.is_file() else {}
    return replace(wish, **{name: chosen[name] for name in CHOSEN if name in chosen and getattr(wish, name) is None})


def _goal(wish: Options, loaded: Loaded, lesson: Lesson) -> Goal | None:
    """A task's figure as what early stopping watches; None: the loss that was held out."""
    if wish.best_by == LOSS:
        return None
    judging = late("danlu.evaluation.judging", "evaluate")  # scikit-learn takes a second to import
    head = getattr(loaded.config, "head", None)
    labels = () if head is None else tuple(head.names)
    judge, rises = judging.judge(find_task(wish.task), labels, lesson.unseen, wish.best_by, wish.truncate)
    return Goal(name=wish.best_by, of=judge, rises=rises)


def _extent(wish: Options, lesson: Lesson) -> Extent:
    """How long to train: as asked, or once through a text; through examples three times, through few ones more often.

    Source: Zhang et al. 2021, arXiv:2006.05987: small sets need more steps than the usual three times give.
    """
    if wish.budget is not None:
        return Extent(seconds=read_seconds(wish.budget))
    if wish.steps is not None:
        return Extent(steps=wish.steps)
    epoch = lesson.objective.steps_an_epoch
    epochs = wish.epochs if wish.epochs is not None else min(max(EPOCHS[0], FEW_STEPS / epoch), EPOCHS[1]) if lesson.answers else 1
    return Extent(steps=max(1, round(epochs * epoch)))


def _same_run(run: Run, settings: dict[str, Any]) -> Run:
    """Refuse to go on with other settings than the run began with; only its end may move."""
    before, settings = run.config, _written(settings)
    before = {**_written(asdict(Options())), **before}  # what was no option yet when it began
    changed = [key for key, value in settings.items() if key not in EXTENT and before.get(key) != value]
    if changed:
        what = ", ".join(f"{key} {before.get(key)!r} -> {settings[key]!r}" for key in changed)
        raise ConfigError(f"{run.folder} was begun with other settings ({what}); give the same ones, or begin another --name")
    return run


def _written(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings as a run's file has them: lists, not tuples."""
    return dict(encoder.loads(encoder.dumps(settings)))


def _validate(loaded: Loaded, lesson: Lesson, config: TrainingConfig, progress: Progress, extent: Extent) -> dict[str, Any]:
    """How good the model is on what was held out; nothing if nothing was. Of a long text a part, where all would outlast the budget."""
    if lesson.texts and loaded.family.pretraining == "next-token":
        pieces = [shard for text in lesson.texts for shard in text.split("validation")]
        size, separator = sum(text.bytes("validation") for text in lesson.texts), lesson.texts[0].separator_id
        if not any(len(piece) for piece in pieces):
            return {}
        share, tokens = 1.0, sum(map(len, pieces))
        if extent.seconds is not None and progress.seconds:
            foretold = BACK_AND_FORTH * progress.tokens / progress.seconds  # in a second
            share = min(1.0, max(VALIDATION * extent.seconds * foretold, LEAST_TOKENS) / tokens)
        found = measure_text(loaded.module, pieces, size, separator, progress.precision, config.context_length, show=False, share=share)
        measured = {"val_loss_nats": found.loss_nats, "val_bits_per_byte": found.bits_per_byte, "val_tokens": found.tokens}
        return {"split": "validation", "tokens_in_all": tokens, **asdict(found), **measured}
    if lesson.held_out is None:
        return {}
    device = next(loaded.module.parameters()).device
    loss, right = held_out(lesson.held_out, loaded.module, lambda: computing_in(progress.precision, device))
    return {"split": "validation", "val_loss_nats": loss} | ({"val_accuracy": right} if lesson.grades else {})


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


def _tell(result: Trained, watch: Watch, held_out_tokens: int | None) -> None:
    held_out = ""
    if result.val_bits_per_byte is not None:
        held_out = f", validation {result.val_bits_per_byte:.3f} bits per byte"
        if result.val_tokens != held_out_tokens:
            held_out += f" (on {result.val_tokens:,} of {held_out_tokens:,} tokens)"
    elif result.val_loss_nats is not None:
        held_out = f", validation loss {result.val_loss_nats:.3f}"
    if result.val_accuracy is not None:
        held_out += f", {result.val_accuracy:.1%} of answers right"
    hint = f"\ntry it: danlu generate {result.run} 'Once'" if result.sample else ""
    if result.task == "chat":
        hint = f"\ntry it: danlu chat {result.run}"
    watch.say(
        f"{result.steps:,} steps, {result.tokens:,} tokens at {result.train_tokens_per_second:,.0f} tokens/s in {result.wall_seconds:.0f} s"
        f"{held_out}\ntake it away: {result.model}{hint}"
    )
