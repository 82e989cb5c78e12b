"""``forwardly evaluate``: how often a trained model is right, and where it is wrong."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table

from forwardly.commands.console import PlainConsole
from forwardly.experiments.evaluation import (
    Evaluated,
    device_for,
    evaluated,
    model_of,
    of_file,
    test_part,
)
from forwardly.experiments.provenance import provenance
from forwardly.experiments.run_folder import RunFolder
from forwardly.files.text import csv_table

_MOST_CLASSES = 20
"""Whose confusion matrix fits a terminal."""


def evaluate(
    run: Path,
    *,
    data: Path | None = None,
    model: str | None = None,
    device: str = "cpu",
    data_root: Path | None = None,
    out: Path | None = None,
) -> int:
    """Hold a trained model to samples whose targets are known.

    Of classes: accuracy, precision and recall of each, and the confusion matrix; of numbers: mean
    absolute error (MAE), root mean squared error (RMSE) and R². Writes evaluation.json,
    predictions.csv, and of classes confusion.csv and confusion.png, of numbers predicted.png.

    Parameters
    ----------
    run
        The folder that ``forwardly train`` wrote, or its model.safetensors.
    data
        The samples with their targets: an .npz file with x and y (or x_test and y_test), a .csv
        file, or a folder of images by class (default: the test part that the run put aside).
    model
        The function that makes the model, my.py:build, if the run was of one of your own.
    device
        Where: cpu; or a GPU: cuda, cuda:1 (the second), xpu or mps; or auto, which takes a GPU if
        there is one and the work is large.
    data_root
        The folder that holds the data sets (default: the variable FORWARDLY_DATA, else the user's
        cache).
    out
        Folder to write to; it must not hold anything yet (default: runs/evaluate/TIME).
    """
    saved = model_of(run, model)
    taken = device_for(saved, device)
    samples, said = test_part(run, saved, data_root) if data is None else of_file(saved, data)
    result = evaluated(saved, samples, said)
    folder = RunFolder.new(out, "evaluate")
    content = {"run": str(run), "data": None if data is None else str(data), **result.figures()}
    folder.write_json("evaluation.json", {**content, **taken.as_data(), **provenance()})
    made = ["evaluation.json", *_write(folder, result)]
    console = PlainConsole()
    if taken.why:
        console.say(f"Device: {taken}.")
    _show(result, console)
    for name in made:
        console.say(str(folder.path / name))
    return 0


def _write(folder: RunFolder, result: Evaluated) -> list[str]:
    """Tables and a picture; their names."""
    from forwardly.experiments.evaluation_figures import (
        confusion_figure,  # matplotlib is slow to import, and only needed here
        predicted_figure,
    )
    from forwardly.experiments.figures import save

    if not result.labels:
        k = result.target.shape[1]
        numbers = [str(i + 1) if k > 1 else "" for i in range(k)]
        names = [f"{what}{number}" for what in ("target", "predicted") for number in numbers]
        rows = zip(result.names, result.target, result.predicted, strict=True)
        table = csv_table(["sample", *names], ([name, *t, *p] for name, t, p in rows))
        figure, picture = predicted_figure(result.target, result.predicted), "predicted.png"
        made = ["predictions.csv", picture]
    else:
        labels = result.labels
        rows = (
            [name, labels[int(t)], labels[int(p)]]
            for name, t, p in zip(result.names, result.target, result.predicted, strict=True)
        )
        table = csv_table(["sample", "target", "predicted"], rows)
        confusion = result.confusion
        matrix = ([label, *map(int, row)] for label, row in zip(labels, confusion, strict=True))
        folder.write("confusion.csv", csv_table(["target \\ predicted", *labels], matrix))
        figure, picture = confusion_figure(confusion, labels), "confusion.png"
        made = ["predictions.csv", "confusion.csv", picture]
    folder.write("predictions.csv", table)
    save(figure, folder.path / picture)
    return made


def _show(result: Evaluated, console: PlainConsole) -> None:
    found = result.figures()
    if not result.labels:
        r2 = "–" if found["r2"] is None else f"{found['r2']:.4f}"
        mae, rmse = (f"{found[name]:.4g}" for name in ("mae", "rmse"))
        console.say(f"{found['samples']:,} samples: MAE {mae}, RMSE {rmse}, R² {r2}")
        return
    table = Table()
    for heading in ("class", "samples", "precision (%)", "recall (%)", "F1 (%)"):
        table.add_column(heading, justify="left" if heading == "class" else "right")
    for label, row in found["classes"].items():
        shares = (f"{100 * row[name]:.2f}" for name in ("precision", "recall", "f1"))
        table.add_row(label, f"{row['samples']:,}", *shares)
    console.table(table)
    if len(result.labels) <= _MOST_CLASSES:
        matrix = Table(title="taken for", box=None)
        matrix.add_column("")
        for label in result.labels:
            matrix.add_column(label, justify="right", no_wrap=True)
        for label, row in zip(result.labels, result.confusion, strict=True):
            matrix.add_row(label, *(f"{count:,}" for count in row))
        console.table(matrix)
    console.say(f"{found['samples']:,} samples: accuracy {100 * found['accuracy']:.2f} %")
