"""The tables of docs/on-device.md, from what ``on_device.py`` recorded."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path

from forwardly.files.fields import Fields
from forwardly.rules import RULES

RECORDS = Path(__file__).parent.parent / "records" / "on-device"
FILES = "train_step.onnx", "train_steps.onnx", "train_epochs.onnx", "predict.onnx"
PROGRAMS = "train_step.pte", "predict.pte"
NETWORKS = {
    "dense": "dense, bias, dropout, batch norm, smoothed labels",
    "convolution": "convolution, groups, pooling, bias",
    "numbers": "dense, bias, GELU, MSELoss",
}
SHOWN = (
    "readout-only",
    "pepita",
    "mem-pepita",
    "direct-feedback-alignment",
    "backprop",
    "forward-forward",
)
Table = tuple[tuple[str, ...], list[tuple[str, ...]]]
"""Headings, and rows."""


def runtimes() -> Table:
    """What each runtime made of every rule's files, network by network."""
    return _checked("checks.json", FILES)


def programs() -> Table:
    """What ExecuTorch made of every rule's programs."""
    return _checked("programs.json", PROGRAMS)


def _checked(record: str, files: tuple[str, ...]) -> Table:
    found = Fields.read(RECORDS / record).list("rows")
    groups: dict[tuple[str, str], list[Fields]] = defaultdict(list)
    for number in found:
        row = found.fields(number)
        groups[row.text("network", *NETWORKS), row.text("runtime")].append(row)
    heads = ("network", "runtime", *files, "largest error", "of the update", "two passes")
    rows = [
        (NETWORKS[network], runtime, *(_right(rows, file) for file in files), *_errors(rows))
        for (network, runtime), rows in sorted(
            groups.items(), key=lambda group: list(NETWORKS).index(group[0][0])
        )
    ]
    return heads, rows


def _right(rows: list[Fields], file: str) -> str:
    """Of how many rules a file gives what torch does, and why not of others."""
    of_file = [row for row in rows if row.text("file") == file]
    refused = [row for row in of_file if "refused" in row]
    wrong = [row for row in of_file if "problem" in row and row not in refused]
    right = len(of_file) - len(refused) - len(wrong)
    said = [f"{right} of {len(of_file)}"]
    if wrong:
        said.append(f"wrong: {', '.join(row.text('rule') for row in wrong)}")
    if 0 < len(refused) < len(of_file):
        said.append(f"refused: {', '.join(row.text('rule') for row in refused)}")
    return "not taken" if of_file and len(refused) == len(of_file) else "; ".join(said)


def _errors(rows: list[Fields]) -> tuple[str, str, str]:
    taken = [row for row in rows if "refused" not in row]
    of_two = {name for name, rule in RULES.items() if rule.compares_passes}
    relative = [
        (row.text("rule") in of_two, row.number("relative")) for row in taken if "relative" in row
    ]
    return (
        f"{max(row.number('absolute') for row in taken if 'absolute' in row):.0e}",
        f"{max(value for two, value in relative if not two):.0e}",
        f"{max(value for two, value in relative if two):.0e}",
    )


def sizes() -> Table:
    """Of some rules' files, the smallest and the largest among them."""
    found = Fields.read(RECORDS / "sizes.json").fields("bytes")
    names = (*FILES, "state.safetensors")
    rows = [(rule, *(f"{found.fields(rule).whole(name, 1):,}" for name in names)) for rule in SHOWN]
    return ("rule", *names), rows


def memory() -> Table:
    """The most bytes of a step at one time."""
    found = Fields.read(RECORDS / "memory.json").fields("bytes")
    whole = found.whole("backprop", 1)
    rows = [
        (rule, f"{found.whole(rule, 1) / 2**20:.0f} MiB", f"{found.whole(rule, 1) / whole:.2f}")
        for rule in found
    ]
    return ("rule", "a step takes", "of backprop's"), rows


def speed() -> Table:
    """Times of a step, as shares of torch's without forwardly's optimizer."""
    found = Fields.read(RECORDS / "speed.json").fields("networks")
    first = found.fields(next(iter(found))).fields("ratios")
    subjects = [name for name in first if name != "torch eager"]
    rows: list[tuple[str, ...]] = []
    for name in found:
        ratios = found.fields(name).fields("ratios")
        medians = [ratios.fields(subject).number("median") for subject in subjects]
        rows.append(
            (name, str(found.fields(name).whole("batch", 1)), *(f"{m:.2f}" for m in medians))
        )
    return ("network", "batch", *subjects), rows


TABLES = {of.__name__: of for of in (runtimes, programs, sizes, speed, memory)}
"""By the names of their places in docs/on-device.md."""
