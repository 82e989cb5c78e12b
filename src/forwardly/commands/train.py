"""``forwardly train``: one rule, one model, one data set."""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter
from rich.progress import TaskID
from rich.table import Table

from forwardly import saving
from forwardly.commands.console import INTERRUPTED, PlainConsole, bars
from forwardly.commands.ending import FAILED, MISTAKE
from forwardly.commands.options import set_threads
from forwardly.commands.recipes import RecipeOptions, completed
from forwardly.errors import UsageError
from forwardly.experiments import records
from forwardly.experiments.provenance import provenance
from forwardly.experiments.recipe import JacobianMirroring, Prepared, Recipe, prepare
from forwardly.experiments.run_folder import CHECKPOINT, MODEL, RunFolder
from forwardly.experiments.settings import SHARE, at_least, require
from forwardly.fast import devices
from forwardly.fast.devices import AUTO
from forwardly.files.fields import Fields
from forwardly.training import Fit, Row, evaluate, loggers
from forwardly.training.local_sgd import LocalSGD
from forwardly.training.measures import MEASURES

_DEFAULTS = Recipe()


def train(
    *,
    recipe: RecipeOptions = _DEFAULTS,
    hidden: tuple[int, ...] | None = None,
    centre: bool = False,
    standardise: bool = False,
    precision: Literal["float32", "float64", "bf16"] = "float32",
    rule_options: tuple[str, ...] = (),
    mirror: float | None = None,
    measure: tuple[str, ...] = ("norms",),
    log: tuple[Literal["csv", "tensorboard", "wandb", "mlflow"], ...] = ("csv",),
    seed: int = 0,
    device: str = AUTO,
    data_parallel: Annotated[
        tuple[Literal["exact"], ...] | None, Parameter(consume_multiple=(0, 1))
    ] = None,
    data_root: Path | None = None,
    out: Path | None = None,
    resume: bool = False,
    threads: int | None = None,
) -> int:
    """Train a model by a rule; the test samples are looked at once, at the end.

    Writes config.json, epochs.csv and checkpoint.pt after every epoch, and at the end
    model.safetensors (which predict and evaluate take), result.json and curves.png. A run that was
    stopped or killed is continued by the same command with --resume, and ends with the same weights
    as if it had been left alone; with more --epochs a run that has ended goes on.

    Parameters
    ----------
    hidden
        Sizes of the hidden layers, separated by spaces; for conv, its channels (default: 1024;
        conv: 32; resmlp: four of 256).
    centre
        Shift samples to means of 0, of each number or of each channel of images, by those of the
        training part.
    standardise
        Shift and scale samples to means of 0 and standard deviations of 1, in the same way.
    precision
        float32, float64, or bf16: float32 weights whose forward products are in bfloat16.
    rule_options
        Options of the rule as NAME=VALUE, e.g. output_error=second sign=-1 projection=0.1.
    mirror
        Let F learn the network's Jacobian from noise, at this rate (0.01, say), after every fourth
        batch; for rules that add F e to the input, with an F of an eighth of the length, say.
    measure
        What else to measure each epoch: norms, alignment, angles; or none.
    log
        Where else than to epochs.csv the figures of each epoch go: tensorboard, wandb, mlflow.
    seed
        Of split, weights, feedback and order of samples.
    device
        Where: cpu, or a GPU: cuda, cuda:1 (the second), xpu or mps; or auto, which takes a GPU if
        there is one and a batch's work is large, and a run that is resumed back to where it was.
    data_parallel
        Share out each batch over the processes that torchrun began, on their processors or with
        --device cuda a GPU each; with exact, so that steps are bit for bit those of one process.
    data_root
        The folder that holds, or is to hold, the data sets (default: the variable FORWARDLY_DATA,
        else the user's cache).
    out
        Folder to write to; it must not hold anything yet, but for --resume (default:
        runs/train/TIME).
    resume
        Continue the run in --out, or start it if there is none.
    threads
        Processor threads (default: torch's choice).
    """
    require(SHARE, mirror=mirror)
    recipe = completed(
        recipe,
        hidden,
        rule_options,
        centre=centre,
        standardise=standardise,
        dtype=precision,
        mirroring=None if mirror is None else JacobianMirroring(mirror),
    )
    measure = () if measure == ("none",) else measure
    unknown = [name for name in measure if name not in MEASURES]
    if unknown:
        raise UsageError(
            f"cannot measure {unknown[0]!r}; what can be measured is {', '.join(MEASURES)}"
        )
    require(at_least(0), seed=seed)
    if resume and out is None:
        raise UsageError("--resume needs --out, the folder of the run to continue")
    console = PlainConsole()
    if device != AUTO:
        devices.choose(device, dtype=recipe.torch_dtype)  # refused before data is waited for

    def begin() -> tuple[Prepared, RunFolder]:
        set_threads(threads)
        with console.status("reading samples") if recipe.of_own_data else nullcontext():
            prepared = prepare(recipe, seed, data_root, progress=True)
        if data_parallel is not None:
            from forwardly.distributed.data_parallel import check_shares

            check_shares(prepared.rule, exact="exact" in data_parallel)
        make = RunFolder.to_resume if resume else RunFolder.new
        return prepared, make(out, "train")

    if data_parallel is None:
        prepared, folder = begin()
        with folder.alone():
            prepared, where = _moved(prepared, device, folder, console)
            return _train(prepared, seed, measure, log, folder, where, console)

    from forwardly.distributed import (  # only needed here, and a torch may be without
        DataParallel,
        launch,
    )

    resume = resume or launch.attempt() > 0  # what torchrun begins again goes on
    with _others_may_end(), launch.joined("cpu" if device == AUTO else device) as joined:
        begun = joined.first_alone(begin)
        if begun is None:
            set_threads(threads)
            prepared = prepare(recipe, seed, data_root).to(joined.device)
            path = Path(joined.from_first(""))
            DataParallel(prepared.rule, exact="exact" in data_parallel)
            _fit(prepared, seed, measure, path / CHECKPOINT)
            return 0
        prepared, folder = begun
        joined.from_first(str(folder.path.absolute()))
        with folder.alone():
            prepared, where = _moved(prepared, str(joined.device), folder, console)
            DataParallel(prepared.rule, exact="exact" in data_parallel)
            where = {**where, "processes": str(joined.count)}
            return _train(prepared, seed, measure, log, folder, where, console)


@contextmanager
def _others_may_end() -> Generator[None]:
    """End without a word where another process says why."""
    from forwardly.distributed import launch

    try:
        yield
    except launch.FirstFailedError:
        raise SystemExit(MISTAKE) from None
    except UsageError:  # which all of them have, and the first says
        if launch.is_first():
            raise
        raise SystemExit(MISTAKE) from None
    except RuntimeError as problem:
        if not launch.is_of_others(problem):
            raise
        raise SystemExit(FAILED) from None


def _moved(
    prepared: Prepared, device: str, folder: RunFolder, console: PlainConsole
) -> tuple[Prepared, dict[str, str]]:
    """What is trained, on the device; and what config.json says of that."""
    config = folder.path / "config.json"
    before = Fields.read(config) if config.exists() else None
    then = before.text("device") if before is not None and "device" in before else None
    chosen = prepared.device(device, before=then)
    if chosen.why:
        console.say(f"Device: {chosen}.")
    where = chosen.as_data()
    if then is not None and then != where["device"]:
        console.say(
            f"Until now the run was on {then}: from here on it ends as it would have there up to "
            "rounding only.",
            style="yellow",
        )
    return prepared.to(chosen.device), where


def _train(
    prepared: Prepared,
    seed: int,
    measure: tuple[str, ...],
    log: tuple[str, ...],
    folder: RunFolder,
    where: dict[str, str],
    console: PlainConsole,
) -> int:
    recipe, settings = prepared.recipe, _settings(prepared, seed, measure)
    checkpoint = folder.path / CHECKPOINT
    rows = Fit.saved(checkpoint).rows if checkpoint.exists() else []
    epochs = max(recipe.epochs, len(rows))
    config = {
        **settings,
        "recipe": {**recipe.as_data(), "epochs": epochs},
        **where,
        **provenance(),
    }
    if not (folder.path / "config.json").exists():
        folder.write_json("config.json", config)
    if len(rows) > recipe.epochs:
        console.say(f"The run has {len(rows)} epochs already, more than {recipe.epochs}.")
    last: Row = {"epoch": float(len(rows))}
    _say_what_is_learned(prepared, console)
    if rows:
        console.say(f"Continuing {checkpoint} after epoch {len(rows)}.")
    with ExitStack() as closing, bars(console, "{task.fields[state]}") as progress:
        logger = closing.enter_context(_loggers(log, folder, settings, rows))
        name = _title(prepared)
        whole = progress.add_task(name, total=recipe.epochs, completed=len(rows), state="")
        part: TaskID = progress.add_task("epoch", total=None, state="", quiet=True)

        def on_batch(done: int, batches: int | None) -> None:
            progress.update(part, completed=done, total=batches)
            progress.update(whole, completed=last["epoch"] + done / (batches or math.inf))

        def on_epoch(row: Row) -> None:
            if len(rows) and row["epoch"] == len(rows) + 1:
                folder.write_json("config.json", config)  # it goes on, perhaps for longer
            last.update(row)
            logger.log(row)
            progress.update(whole, completed=row["epoch"], state=_short(row))

        try:
            if isinstance(prepared.optimizer, LocalSGD):
                progress.update(whole, state="compiling, once on this machine")
                prepared.optimizer.prepare()
                progress.update(whole, state="")
            trained = _fit(
                prepared, seed, measure, checkpoint, on_batch=on_batch, on_epoch=on_epoch
            )
        except KeyboardInterrupt:
            console.say(
                f"Stopped; the same command with --out {folder.path} --resume goes on from epoch "
                f"{int(last['epoch'])}.",
                style="yellow",
            )
            return INTERRUPTED
    return _finish(prepared, trained, folder, console)


def _settings(prepared: Prepared, seed: int, measure: tuple[str, ...]) -> dict[str, Any]:
    """What a run that is resumed must have in common with what it was."""
    recipe = prepared.recipe
    # How long a run goes on may change when it is resumed; what it does may not.
    # Own data and an own model are known by their checksums, wherever the files lie.
    free = ["epochs", "patience"]
    free += ["data"] * recipe.of_own_data + ["model"] * recipe.of_own_model
    fixed = {n: v for n, v in recipe.as_data().items() if n not in free}
    settings: dict[str, Any] = {"recipe": fixed, "run_seed": seed, "measure": list(measure)}
    if recipe.of_own_data:
        settings["data_sha256"] = prepared.dataset.sha256()
    return settings | recipe.own_model()


def _fit(
    prepared: Prepared, seed: int, measure: tuple[str, ...], checkpoint: Path, **options: Any
) -> Fit:
    return prepared.fit(
        measures=[MEASURES[name] for name in measure],
        checkpoint=checkpoint,
        resume=True,
        settings=_settings(prepared, seed, measure),
        **options,
    )


def _finish(prepared: Prepared, trained: Fit, folder: RunFolder, console: PlainConsole) -> int:
    """Write what a run that has ended leaves, and show it; the exit code."""
    recipe, rows = prepared.recipe, trained.rows
    folder.write("epochs.csv", records.table(rows, digits=10))
    tested = {} if trained.diverged else evaluate(prepared.rule, prepared.dataset.test)
    result = {
        **{f"test_{name}": value for name, value in tested.items()},
        "diverged": trained.diverged,
        "epochs": len(rows),
        "best_epoch": trained.best,
        "kept": recipe.keep,
        "seconds": trained.seconds,
        "samples_per_second": rows[-1]["samples_per_second"],
    }
    if trained.diverged:
        folder.write_json("result.json", result)
        console.say(
            f"{recipe.rule} diverged (NaN or infinity) in epoch {trained.diverged} with learning "
            f"rate {recipe.learning_rate:g}. Try a smaller --learning-rate.",
            style="red",
        )
        return 1
    saving.save(prepared.rule, folder.path / MODEL, dataset=prepared.dataset, own=prepared.own)
    folder.write_json("result.json", result)
    from forwardly.experiments import (  # matplotlib is slow to import, and only needed here
        curves,
        figures,
    )

    figures.save(
        curves.training_figure(rows, recipe.rule, _title(prepared)), folder.path / "curves.png"
    )
    _report(trained, tested, recipe.keep, console)
    for name in ("epochs.csv", "result.json", MODEL, CHECKPOINT, "curves.png"):
        console.say(str(folder.path / name))
    return 0


@contextmanager
def _loggers(
    names: tuple[str, ...], folder: RunFolder, settings: dict[str, Any], rows: Sequence[Row]
) -> Generator[loggers.All]:
    """Those of ``--log``, epochs.csv in any case; closed afterwards, whatever happens."""
    logger = loggers.All(loggers.CSV(folder.path / "epochs.csv", rows))
    try:
        if "tensorboard" in names:
            purge = len(rows) + 1 if rows else None
            logger.add(loggers.TensorBoard(folder.path / "tensorboard", purge=purge))
        if "wandb" in names:
            logger.add(loggers.Wandb(folder.path, settings))
        if "mlflow" in names:
            logger.add(loggers.MLflow(folder.path, settings))
        yield logger
    finally:
        logger.close()


def _title(prepared: Prepared) -> str:
    """What is trained, on what, under which condition."""
    recipe = prepared.recipe
    stress = "" if recipe.stress is None else f", {recipe.stress}"
    return f"{recipe.rule} on {prepared.dataset.name}{stress}"


def _say_what_is_learned(prepared: Prepared, console: PlainConsole) -> None:
    """What a file of the user's was taken for."""
    dataset = prepared.dataset
    if not prepared.recipe.of_own_data:
        return
    shape = " × ".join(map(str, dataset.sample_shape))
    what = f"{dataset.outputs} {'classes' if dataset.classes else 'numbers'}"
    if dataset.target_name:
        what = f"{dataset.target_name}, {what}"
    train, validation, test = map(len, (dataset.train, dataset.validation, dataset.test))
    console.say(
        f"{dataset.name}: {shape} numbers a sample → {what}; {train:,} samples to train, "
        f"{validation:,} to validate, {test:,} to test."
    )


def _short(row: Row) -> str:
    if "validation_accuracy" in row:
        return f"validation {100 * row['validation_accuracy']:.2f} %"
    return f"validation loss {row['validation_loss']:.4g}"


def _report(trained: Fit, tested: Row, keep: str, console: PlainConsole) -> None:
    last = trained.rows[-1]
    if keep == "best" and trained.best is not None:
        last = trained.rows[trained.best - 1]
    table = Table("", "loss", "accuracy (%)")
    parts = ("training", "", last), ("validation", "validation_", last), ("test", "", tested)
    for name, prefix, row in parts:
        accuracy = row.get(f"{prefix}accuracy")
        shown = "–" if accuracy is None else f"{100 * accuracy:.2f}"
        table.add_row(name, f"{row[f'{prefix}loss']:.4f}", shown)
    console.table(table)
    if keep == "best":
        console.say(f"The model is that of epoch {trained.best}, the best.")
    if trained.stopped:
        console.say(f"Stopped early, after epoch {len(trained.rows)}: no better one for a while.")
    rate = trained.rows[-1]["samples_per_second"]
    console.say(f"{trained.seconds:.1f} s, {rate:,.0f} samples a second")
