"""``forwardly export``: a training step as files that inference runtimes run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import torch
from cyclopts import Parameter
from rich.table import Table
from torch import Tensor
from torch.optim import Optimizer

from forwardly import files
from forwardly.commands.console import PlainConsole
from forwardly.commands.options import fields_but
from forwardly.data import load
from forwardly.errors import UsageError
from forwardly.experiments.evaluation import model_of
from forwardly.experiments.recipe import Recipe, load_data, optimizer_of, prepare_on
from forwardly.experiments.run_folder import CHECKPOINT, RunFolder
from forwardly.experiments.settings import at_least, require
from forwardly.export import export as export_step
from forwardly.export.c.plan import plan_of
from forwardly.export.check import Checked, check, needed
from forwardly.export.folder import Contents, writer
from forwardly.files.fields import Fields
from forwardly.rule import Rule
from forwardly.rules.options import read_options
from forwardly.training import checkpoint

_DEFAULTS = Recipe(data="digits", hidden=(64,))
_LATER = (
    *(
        "data",
        "options",
        "hidden",
        "conv_rate",
        "mirroring",
        "dtype",
        "preprocessing",
        "batch",
        "epochs",
    ),
    *("milestones", "gamma", "validation", "patience", "keep", "flip", "shift", "crop", "stress"),
)
"""Settings of a run that a single step has not."""
Format = Literal["onnx", "c", "executorch"]
_FORMATS: tuple[Format, ...] = ("onnx", "c", "executorch")


def export(
    *,
    recipe: Annotated[Recipe, fields_but(*_LATER)] = _DEFAULTS,
    data: str = _DEFAULTS.data,
    hidden: tuple[int, ...] = _DEFAULTS.hidden,
    rule_options: tuple[str, ...] = (),
    seed: int = 0,
    data_root: Path | None = None,
    from_run: Annotated[Path | None, Parameter(name="--from")] = None,
    check_folder: Annotated[Path | None, Parameter(name="--check")] = None,
    batch: int = _DEFAULTS.batch,
    formats: Annotated[tuple[str, ...], Parameter(name="--format")] = ("onnx",),
    numbers: Literal["host", "graph"] = "host",
    page: bool = False,
    out: Path | None = None,
) -> int:
    """Write a training step as files that learn without torch: wherever inference runs, or in C.

    As onnx it writes train_step.onnx, train_steps.onnx, train_epochs.onnx, predict.onnx,
    state.safetensors, forwardly.json, check.npz and a README with programs that learn with them,
    and holds the files to torch in every runtime that is installed: onnxruntime, ONNX's reference,
    OpenVINO, tract. As c, for microcontrollers, it writes forwardly_step.c, forwardly_step.h and a
    README. As executorch it writes train_step.pte and predict.pte in place of the ONNX files, and
    holds them to torch, too.

    Parameters
    ----------
    data
        mnist, fashion-mnist, cifar10, cifar100, digits, mnist1d or teacher-student; or a file of
        your own, my.npz or my.csv, or a folder of images.
    hidden
        Sizes of the hidden layers, separated by spaces; for conv, its channels.
    rule_options
        Options of the rule as NAME=VALUE, e.g. output_error=second sign=-1 projection=0.1.
    seed
        Of weights and feedback.
    data_root
        The folder that holds, or is to hold, the data sets (default: the variable FORWARDLY_DATA,
        else the user's cache).
    from_run
        Go on from a run of ``forwardly train``: with its rule, weights, momenta and learning rate;
        where it was trained on centred or standardised samples, the files do that to theirs.
    check_folder
        Write nothing, but check a folder that was exported.
    batch
        Of executorch, the most samples that a step can take; of a run, those that its steps took.
    formats
        onnx, c, executorch, or several, separated by spaces or commas; then each but onnx has a
        folder of its name.
    numbers
        Where random numbers of a step come from: host, an input of its own; or graph, computed from
        64-bit integers, with the very dropout of forwardly train. Some runtimes get those wrong.
    page
        Write learn.html instead, a page on which exported steps of PEPITA, its control and backprop
        learn in a browser: a file with all in itself, and a folder for a server, hosted, which has
        MNIST, too.
    out
        Folder to write to; it must not hold anything yet (default: runs/export/TIME).
    """
    console = PlainConsole()
    options = read_options(rule_options)
    own = replace(recipe, data=data, hidden=hidden, batch=batch, options=options)
    given = own != _DEFAULTS
    chosen = _chosen(formats)
    if chosen != ["onnx"] and (page or check_folder is not None):
        raise UsageError("--format is of a step to be written: give --page or --check without it")
    if page:
        if given or seed or from_run is not None or check_folder is not None:
            raise UsageError("--page has rules and data of its own: give --out with it, or nothing")
        _write_page(RunFolder.new(out, "page").path, data_root, console)
        return 0
    if check_folder is not None:
        if out is not None or from_run is not None:
            raise UsageError("--check takes a folder that is there, and neither --out nor --from")
        return _show(check(Contents.read(check_folder)), console)
    require(at_least(0), seed=seed)
    if from_run is not None:
        if given:
            raise UsageError(f"{from_run} has its own rule and settings: give --from without them")
        training = _of_run(from_run)
    else:
        prepared = prepare_on(load_data(own, seed, data_root, progress=True), own, seed)
        x, target = prepared.dataset.train.batch(slice(own.batch), torch.float32)
        training = _Training(prepared.rule, prepared.optimizer, (x, target))
    if "c" in chosen:
        if training.prepare is not None:
            raise UsageError(
                f"{from_run} was trained on samples with their mean taken off, which the C step "
                "does not do: train without --centre and --standardise, or export without c"
            )
        # What cannot be in C is refused before anything is written; so is what is not installed.
        plan_of(training.rule, training.optimizer)
    for kind in chosen:
        if kind != "c":
            writer(kind)
    folder = RunFolder.new(out, "export").path
    code = 0
    for kind in chosen:
        place = folder if kind == "onnx" or len(chosen) == 1 else folder / kind
        code = max(code, _write(training, place, kind, numbers, console))
    return code


def _write_page(folder: Path, data_root: Path | None, console: PlainConsole) -> None:
    # Slow to import, and only needed here.
    from forwardly.export.page import write_page

    for path in write_page(folder, progress=True):
        console.say(str(path))
    mnist = None
    try:
        mnist = load("mnist", data_root, progress=True)
    except UsageError as problem:
        console.say(f"{folder / 'hosted'} does without MNIST: {problem}")
    for path in write_page(folder / "hosted", single_file=False, mnist=mnist):
        console.say(str(path))


def _write(
    training: _Training,
    place: Path,
    kind: Format,
    numbers: Literal["host", "graph"],
    console: PlainConsole,
) -> int:
    """One format; the exit code, after the files' names and what is to be said of them."""
    rule, optimizer, example, prepare = training
    sizes = None
    if kind == "c":
        sizes = export_step(rule, optimizer, place, format=kind)
    else:
        export_step(rule, optimizer, place, example, format=kind, numbers=numbers, prepare=prepare)
    for path in sorted(place.iterdir()):
        console.say(str(path))
    if sizes is None:
        return _show(check(Contents.read(place)), console)
    console.say(f"{sizes.ram:,} bytes of RAM and {sizes.flash:,} of constants, and code")
    return 0


def _chosen(given: tuple[str, ...]) -> list[Format]:
    """The formats, each once; ONNX first, whose folder must be empty.

    Raises:
        UsageError: if one is unknown, or none is given.
    """
    names = [name.strip() for one in given for name in one.split(",")]
    for name in names or [""]:
        if name not in _FORMATS:
            said = f"; given {name!r}" if name else ""
            raise UsageError(f"--format takes onnx, c or executorch, or several{said}")
    return [name for name in _FORMATS if name in names]


class _Training(NamedTuple):
    """What is exported; see ``forwardly.export.export``."""

    rule: Rule
    optimizer: Optimizer
    example: tuple[Tensor, Tensor]
    prepare: Callable[[Tensor], Tensor] | None = None


def _of_run(run: Path) -> _Training:
    """The rule that a run has trained, and its optimizer, to go on from there.

    Momenta and learning rates are those of the last epoch, if the weights are.
    """
    saved = model_of(run)
    if saved.data is None or not run.is_dir():
        raise UsageError(f"{run} does not say what it learned from: name the folder of a run")
    recipe = Recipe.from_data(Fields.read(run / "config.json").fields("recipe").content)
    rule = saved.rule.train()
    full = "float32" if recipe.dtype == "bf16" else recipe.dtype
    optimizer = optimizer_of(replace(recipe, dtype=full), rule)
    if files.is_there(run / CHECKPOINT):
        last = checkpoint.load(run / CHECKPOINT)
        if all(torch.equal(last["rule"][name], value) for name, value in rule.named_parameters()):
            optimizer.load_state_dict(last["optimizer"])
    numbers = torch.Generator().manual_seed(0)
    x = torch.rand(recipe.batch, *saved.data.sample_shape, generator=numbers)
    target = torch.rand(recipe.batch, saved.data.outputs, generator=numbers)
    example = x, target.argmax(1) if saved.data.classes else target
    return _Training(rule, optimizer, example, saved.data.preprocessing)


def _show(checked: Checked, console: PlainConsole) -> int:
    """The exit code, after the table."""
    table = Table()
    for heading in ("runtime", "file", "largest error", "of the update", "is"):
        table.add_column(heading, justify="right" if "error" in heading else "left")
    for cells in checked.cells():
        table.add_row(*cells)
    console.table(table)
    return 1 if needed(checked) else 0
