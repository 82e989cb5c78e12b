"""``forwardly predict``: what a trained model says of samples."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from forwardly import files
from forwardly.commands.console import PlainConsole
from forwardly.errors import UsageError
from forwardly.experiments.evaluation import device_for, labels_of, model_of, of_file
from forwardly.files.text import csv_table


def predict(
    run: Path,
    *,
    data: Path,
    model: str | None = None,
    device: str = "cpu",
    out: Path | None = None,
) -> int:
    """Say what a trained model makes of samples, as a table (CSV).

    Of classes it has the likeliest and the probability of each, of numbers the numbers.

    Parameters
    ----------
    run
        The folder that ``forwardly train`` wrote, or its model.safetensors.
    data
        The samples: an .npz file with x (or x_test), a .csv file with the columns that were learned
        from, or a folder of images.
    model
        The function that makes the model, my.py:build, if the run was of one of your own.
    device
        Where: cpu; or a GPU: cuda, cuda:1 (the second), xpu or mps; or auto, which takes a GPU if
        there is one and the work is large.
    out
        The table; it must not be there yet (default: standard output).
    """
    saved = model_of(run, model)
    if out is not None and files.is_there(out):
        raise UsageError(f"{out} is there already, and nothing is overwritten: name another --out")
    taken = device_for(saved, device)
    if taken.why:
        PlainConsole(stderr=True).say(f"Device: {taken}.")
    samples, said = of_file(saved, data)
    labels = labels_of(saved, said.shape[1])
    if labels:
        likeliest = [labels[int(i)] for i in np.argmax(said, 1)]
        names = ["sample", "class", *(f"p({label})" for label in labels)]
        heads = [[*pair] for pair in zip(samples.names, likeliest, strict=True)]
    else:
        learned = saved.data.target_name if saved.data is not None else ""
        numbers = [learned or "predicted"] if said.shape[1] == 1 else []
        names = ["sample", *(numbers or [f"predicted {i + 1}" for i in range(said.shape[1])])]
        heads = [[name] for name in samples.names]
    rows = (
        [*head, *(f"{value:.6g}" for value in values)]
        for head, values in zip(heads, said, strict=True)
    )
    table = csv_table(names, rows)
    if out is None:
        sys.stdout.write(table)
        return 0
    try:
        files.write(out, table)
    except OSError as problem:
        raise UsageError(f"cannot write to {out}: {problem.strerror}; name another --out") from None
    PlainConsole().say(str(out))
    return 0
