"""``forwardly train``: one rule, one model, one data set."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from rich.progress import TaskID
from rich.table import Table

from forwardly.commands.console import INTERRUPTED, PlainConsole, bars
from forwardly.commands.options import fields_but, set_threads
from forwardly.errors import UsageError
from forwardly.experiments import records
from forwardly.experiments.provenance import provenance
from forwardly.experiments.recipe import Recipe, prepare
from forwardly.experiments.run_folder import RunFolder
from forwardly.experiments.settings import at_least, require
from forwardly.training import Fit, Row, evaluate
from forwardly.training.local_sgd import LocalSGD
from forwardly.training.measures import MEASURES

_DEFAULTS = Recipe()


def train(
    *,
    recipe: Annotated[
        Recipe, fields_but("options", "hidden", "conv_rate", "mirroring", "dtype")
    ] = _DEFAULTS,
    hidden: tuple[int, ...] | None = None,
    precision: Literal["float32", "float64", "bf16"] = "float32",
    rule_options: tuple[str, ...] = (),
    measure: tuple[str, ...] = ("norms",),
    seed: int = 0,
    data_root: Path | None = None,
    out: Path | None = None,
    resume: bool = False,
    threads: int | None = None,
) -> int:
    """Train a model by a rule; the test images are looked at once, at the end.

    Writes config.json, epochs.csv, checkpoint.pt after every epoch, and result.json and
    curves.png at the end. A run that was stopped or killed is continued by the same command with
    --resume, and ends with the same weights as if it had been left alone.

    Parameters
    ----------
    hidden
        Sizes of the hidden layers, separated by spaces; for conv, its channels (default: 1024;
        conv: 32).
    precision
        float32, float64, or bf16: float32 weights whose forward products are in bfloat16.
    rule_options
        Options of the rule as NAME=VALUE, e.g. output_error=second sign=-1 projection=0.1.
    measure
        What else to measure each epoch: norms, alignment, angles; or none.
    seed
        Of split, weights, feedback and order of samples.
    data_root
        The folder that holds, or is to hold, the data sets (default: the variable FORWARDLY_DATA,
        else the user's cache).
    out
        Folder to write to; it must not hold anything yet, but for --resume (default:
        runs/train/TIME).
    resume
        Continue the run in --out.
    threads
        Processor threads (default: torch's choice).
    """
    sizes = hidden or ((32,) if recipe.model == "conv" else recipe.hidden)
    recipe = replace(recipe, hidden=sizes, dtype=precision, options=_options(rule_options))
    measure = () if measure == ("none",) else measure
    unknown = [name for name in measure if name not in MEASURES]
    if unknown:
        raise UsageError(
            f"cannot measure {unknown[0]!r}; what can be measured is {', '.join(MEASURES)}"
        )
    require(at_least(0), seed=seed)
    set_threads(threads)
    before = RunFolder.to_resume(out) if resume else None
    prepared = prepare(recipe, seed, data_root, progress=True)
    settings = {"recipe": recipe.as_data(), "run_seed": seed, "measure": list(measure)}
    folder = before or RunFolder.new(out, "train")
    if not resume:
        folder.write_json("config.json", {**settings, **provenance()})
    console = PlainConsole()
    checkpoint = folder.path / "checkpoint.pt"
    last: Row = {"epoch": 0}
    with bars(console, "{task.fields[state]}") as progress:
        whole = progress.add_task(f"{recipe.rule} on {recipe.data}", total=recipe.epochs, state="")
        part: TaskID = progress.add_task("epoch", total=None, state="")

        def on_batch(done: int, batches: int) -> None:
            progress.update(part, completed=done, total=batches)
            progress.update(whole, completed=last["epoch"] + done / batches)

        def on_epoch(row: Row) -> None:
            last.update(row)
            progress.update(whole, completed=row["epoch"], state=_short(row))

        try:
            if resume and checkpoint.exists():
                console.say(f"Continuing {checkpoint}")
            if isinstance(prepared.optimizer, LocalSGD):
                progress.update(whole, state="compiling, once on this machine")
                prepared.optimizer.prepare()
                progress.update(whole, state="")
            trained = prepared.fit(
                measures=[MEASURES[name] for name in measure],
                checkpoint=checkpoint,
                resume=resume,
                settings=settings,
                on_batch=on_batch,
                on_epoch=on_epoch,
            )
        except KeyboardInterrupt:
            console.say(
                f"Stopped; the same command with --out {folder.path} --resume goes on from epoch "
                f"{int(last['epoch'])}.",
                style="yellow",
            )
            return INTERRUPTED
    rows = trained.rows
    folder.write("epochs.csv", records.table(rows, digits=10))
    tested = {} if trained.diverged else evaluate(prepared.rule, prepared.dataset.test)
    result = {
        **{f"test_{name}": value for name, value in tested.items()},
        "diverged": trained.diverged,
        "epochs": len(rows),
        "seconds": trained.seconds,
        "samples_per_second": rows[-1]["samples_per_second"],
    }
    folder.write_json("result.json", result)
    if trained.diverged:
        console.say(
            f"{recipe.rule} diverged (NaN or infinity) in epoch {trained.diverged} with learning "
            f"rate {recipe.learning_rate:g}. Try a smaller --learning-rate.",
            style="red",
        )
        return 1
    from forwardly.experiments import (  # matplotlib is slow to import, and only needed here
        curves,
        figures,
    )

    title = f"{recipe.rule} on {recipe.data}"
    figures.save(curves.training_figure(rows, recipe.rule, title), folder.path / "curves.png")
    _report(trained, tested, console)
    for name in ("epochs.csv", "result.json", "checkpoint.pt", "curves.png"):
        console.say(str(folder.path / name))
    return 0


def _options(given: tuple[str, ...]) -> dict[str, float | int | str]:
    """NAME=VALUE as a dictionary, numbers as numbers."""
    options: dict[str, float | int | str] = {}
    for option in given:
        name, equals, text = option.partition("=")
        if not (name and equals and text):
            raise UsageError(f"a rule's option is given as NAME=VALUE; given {option!r}")
        name = name.replace("-", "_")
        if name in options:
            raise UsageError(f"the rule's option {name} is given twice")
        options[name] = text
        for number in (float, int):
            with suppress(ValueError):
                options[name] = number(text)
    return options


def _short(row: Row) -> str:
    if "validation_accuracy" in row:
        return f"validation {100 * row['validation_accuracy']:.2f} %"
    return f"validation loss {row['validation_loss']:.4g}"


def _report(trained: Fit, tested: Row, console: PlainConsole) -> None:
    last = trained.rows[-1]
    table = Table("", "loss", "accuracy (%)")
    parts = ("training", "", last), ("validation", "validation_", last), ("test", "", tested)
    for name, prefix, row in parts:
        accuracy = row.get(f"{prefix}accuracy")
        shown = "–" if accuracy is None else f"{100 * accuracy:.2f}"
        table.add_row(name, f"{row[f'{prefix}loss']:.4f}", shown)
    console.table(table)
    rate = last["samples_per_second"]
    console.say(f"{trained.seconds:.1f} s, {rate:,.0f} samples a second")
