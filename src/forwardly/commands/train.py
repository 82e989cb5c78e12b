"""``forwardly train``: one rule, one model, one data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import torch
from rich.progress import TaskID
from rich.table import Table

from forwardly import files
from forwardly.commands.console import INTERRUPTED, PlainConsole, Several, bars
from forwardly.data import load
from forwardly.errors import UsageError
from forwardly.experiments import records, results
from forwardly.experiments.provenance import provenance
from forwardly.experiments.recipe import Recipe, prepare
from forwardly.training import Fit, Row, evaluate, fit
from forwardly.training.local_sgd import LocalSGD
from forwardly.training.measures import MEASURES


def train(
    *,
    rule: str = "pepita",
    data: str = "mnist",
    model: str = "mlp",
    hidden: Several[int] | None = None,
    epochs: int = 10,
    batch: int = 64,
    learning_rate: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 0.0,
    milestones: Several[int] = (),
    gamma: float = 0.1,
    activation: str = "relu",
    dropout: float = 0.0,
    normalise: str | None = None,
    initial: str = "he",
    rule_options: Several[str] = (),
    validation: int | None = None,
    measure: Several[str] = ("norms",),
    seed: int = 0,
    precision: Literal["float32", "float64", "bf16"] = "float32",
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
    rule
        The learning rule; ``forwardly rules`` lists them.
    data
        mnist, fashion-mnist, cifar10, cifar100, digits, mnist1d or teacher-student.
    model
        mlp, or conv for one convolution of 5 × 5, pooling and a readout.
    hidden
        Sizes of the hidden layers, separated by spaces; for conv, its channels (default: 1024;
        conv: 32).
    epochs
        Passes over the training samples.
    batch
        Samples a step.
    learning_rate
        Of stochastic gradient descent.
    momentum
        Of stochastic gradient descent.
    weight_decay
        Of stochastic gradient descent.
    milestones
        Epochs after which the learning rate is multiplied by gamma.
    gamma
        See milestones.
    activation
        Of hidden layers: relu, tanh or sigmoid.
    dropout
        Probability with which a hidden unit is dropped.
    normalise
        Give hidden activities length one: of each sample, or of the batch.
    initial
        How weights are drawn: he, or torch as its layers are.
    rule_options
        Options of the rule as NAME=VALUE, e.g. output_error=second sign=-1 projection=0.1.
    validation
        Training samples put aside (default: what suits the data set).
    measure
        What else to measure each epoch: norms, alignment, angles.
    seed
        Of split, weights, feedback and order of samples.
    precision
        float32, float64, or bf16: float32 weights whose forward products are in bfloat16.
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
    recipe = Recipe(
        rule,
        data,
        _options(rule_options),
        model=model,
        hidden=hidden or ((32,) if model == "conv" else (1024,)),
        initial=initial,
        activation=activation,
        dropout=dropout,
        normalise=normalise,
        learning_rate=learning_rate,
        momentum=momentum,
        weight_decay=weight_decay,
        batch=batch,
        epochs=epochs,
        milestones=milestones,
        gamma=gamma,
        validation=validation,
        dtype=precision,
    )
    _check(measure, threads, seed)
    load(data, data_root, validation=validation, seed=seed, progress=True)  # says now if it cannot
    if threads is not None:
        torch.set_num_threads(threads)
    prepared = prepare(recipe, seed, data_root)
    settings = {"recipe": recipe.as_data(), "run_seed": seed, "measure": list(measure)}
    folder = _folder(out, resume)
    if not resume:
        config = json.dumps({**settings, **provenance()}, indent=2)
        files.write(folder / "config.json", config + "\n")
    console = PlainConsole()
    checkpoint = folder / "checkpoint.pt"
    with bars(console, "{task.fields[state]}") as progress:
        whole = progress.add_task(f"{rule} on {data}", total=epochs, state="")
        part: TaskID = progress.add_task("epoch", total=None, state="")
        seen: list[Row] = []

        def on_batch(done: int, batches: int) -> None:
            epoch = seen[-1]["epoch"] if seen else 0
            progress.update(part, completed=done, total=batches)
            progress.update(whole, completed=epoch + done / batches)

        def on_epoch(row: Row) -> None:
            seen.append(row)
            progress.update(whole, completed=row["epoch"], state=_short(row))

        try:
            if resume and checkpoint.exists():
                console.say(f"Continuing {checkpoint}")
            if isinstance(prepared.optimizer, LocalSGD):
                progress.update(whole, state="compiling, once on this machine")
                prepared.optimizer.prepare()
                progress.update(whole, state="")
            trained = fit(
                prepared.rule,
                prepared.dataset,
                prepared.optimizer,
                epochs=epochs,
                batch=batch,
                scheduler=prepared.scheduler,
                seed=prepared.order_seed,
                measures=[MEASURES[name] for name in measure],
                checkpoint=checkpoint,
                resume=resume,
                settings=settings,
                on_batch=on_batch,
                on_epoch=on_epoch,
            )
        except KeyboardInterrupt:
            console.say(
                f"Stopped; the same command with --out {folder} --resume goes on from epoch "
                f"{int(seen[-1]['epoch']) if seen else 0}.",
                style="yellow",
            )
            return INTERRUPTED
    rows = trained.rows
    files.write(folder / "epochs.csv", records.table(rows, digits=10))
    if trained.diverged is not None:
        console.say(
            f"{rule} diverged (NaN or infinity) in epoch {trained.diverged} with learning rate "
            f"{learning_rate:g}. Try a smaller --learning-rate.",
            style="red",
        )
        _write_result(folder, trained, {})
        return 1
    tested = evaluate(prepared.rule, prepared.dataset.test)
    _write_result(folder, trained, tested)
    from forwardly.experiments import (  # matplotlib is slow to import, and only needed here
        curves,
        figures,
    )

    figures.save(curves.training_figure(rows, rule, f"{rule} on {data}"), folder / "curves.png")
    _report(trained, tested, folder, console)
    return 0


def _options(given: tuple[str, ...]) -> dict[str, float | int | str]:
    """NAME=VALUE as a dictionary, numbers as numbers."""
    options: dict[str, float | int | str] = {}
    for option in given:
        name, equals, text = option.partition("=")
        if not (name and equals and text):
            raise UsageError(f"a rule's option is given as NAME=VALUE; given {option!r}")
        value: float | int | str = text
        for kind in (int, float):
            try:
                value = kind(text)
            except ValueError:
                continue
            break
        options[name.replace("-", "_")] = value
    return options


def _check(measure: tuple[str, ...], threads: int | None, seed: int) -> None:
    unknown = [name for name in measure if name not in MEASURES]
    if unknown:
        raise UsageError(
            f"cannot measure {unknown[0]!r}; what can be measured is {', '.join(MEASURES)}"
        )
    if threads is not None and threads < 1:
        raise UsageError(f"threads must be at least 1; given {threads}")
    if seed < 0:
        raise UsageError(f"seed must be at least 0; given {seed}")


def _folder(out: Path | None, resume: bool) -> Path:
    if not resume:
        return results.new_folder(out, "train")
    if out is None:
        raise UsageError("--resume needs --out, the folder of the run to continue")
    if not (out / "config.json").exists():
        raise UsageError(f"there is no run to continue in {out}: it has no config.json")
    results.check_writable(out)
    return out


def _short(row: Row) -> str:
    if "validation_accuracy" in row:
        return f"validation {100 * row['validation_accuracy']:.2f} %"
    return f"validation loss {row['validation_loss']:.4g}"


def _write_result(folder: Path, trained: Fit, tested: Row) -> None:
    content: dict[str, Any] = {
        **{f"test_{name}": value for name, value in tested.items()},
        "diverged": trained.diverged,
        "epochs": len(trained.rows),
        "seconds": trained.seconds,
        "samples_per_second": trained.rows[-1]["samples_per_second"],
    }
    files.write(folder / "result.json", json.dumps(content, indent=2) + "\n")


def _report(trained: Fit, tested: Row, folder: Path, console: PlainConsole) -> None:
    last = trained.rows[-1]
    table = Table("", "loss", "accuracy (%)")
    for name, prefix, row in (
        ("training", "", last),
        ("validation", "validation_", last),
        ("test", "", tested),
    ):
        accuracy = row.get(f"{prefix}accuracy")
        table.add_row(
            name,
            f"{row[f'{prefix}loss']:.4f}",
            "–" if accuracy is None else f"{100 * accuracy:.2f}",
        )
    console.table(table)
    console.say(
        f"{trained.seconds:.1f} s, {last['samples_per_second']:,.0f} samples a second",
    )
    for name in ("epochs.csv", "result.json", "checkpoint.pt", "curves.png"):
        console.say(str(folder / name))
