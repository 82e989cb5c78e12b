"""``forwardly bench``: what a training step costs beside the best alternative."""

from __future__ import annotations

import gc
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import Progress, TaskID
from rich.table import Table
from rich.text import Text

from forwardly.benchmarks import memory, scaling, steps
from forwardly.benchmarks.cases import CASES, Case
from forwardly.benchmarks.timing import Ratio, fastest, paired, ratio, verdict
from forwardly.commands.console import INTERRUPTED, PlainConsole, bars
from forwardly.commands.options import set_threads
from forwardly.errors import UsageError
from forwardly.experiments.provenance import provenance
from forwardly.experiments.run_folder import RunFolder
from forwardly.fast import processors

_SCALING = "scaling"
_BUILDS = 3
"""How often networks are built anew at the least: new memory, and processors may have moved."""

_MOST_BUILDS = 12
"""The same where rounds go on until the median is known well."""


def bench(
    *,
    cases: tuple[str, ...] = (),
    quick: bool = False,
    threads: int | None = None,
    out: Path | None = None,
) -> int:
    """Time training steps against the fastest alternative, in turn, as ratios.

    Leave the machine alone meanwhile: where the spread is too wide, nothing is concluded. A case
    goes on until its median is known to a tenth, or has had four times the rounds.

    Parameters
    ----------
    cases
        Which to run, separated by spaces (default: all, and how time grows, "scaling").
    quick
        Fewer and shorter rounds: a look, not a record.
    threads
        Processor threads of torch (default: all).
    out
        Folder to write bench.json and scaling.png to; it must not hold anything yet (default:
        runs/bench/TIME).
    """
    known = [*(case.name for case in CASES), _SCALING]
    unknown = [name for name in cases if name not in known]
    if unknown:
        raise UsageError(f"unknown case {unknown[0]!r}; the cases are {', '.join(known)}")
    set_threads(threads)
    chosen = [case for case in CASES if not cases or case.name in cases]
    folder = RunFolder.new(out, "bench")
    content: dict[str, Any] = {
        "experiment": "bench",
        "quick": quick,
        "threads": torch.get_num_threads(),
        "processor": processors.name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        **provenance(),
        "cases": {},
    }
    console = PlainConsole()
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    console.say(f"{content['processor']}, {content['threads']} threads; {versions}")
    rounds, burst = (2, 0.05) if quick else (8, 0.2)
    code = 0
    try:
        with bars(console) as progress:
            for case in chosen:
                if why_not := case.why_not():
                    console.say(f"{case.name} left out: {why_not}")
                    continue
                task = progress.add_task(case.name, total=rounds * _BUILDS)
                builds = _BUILDS if quick else _MOST_BUILDS
                found = _measured(case, rounds, burst, builds, progress, task)
                content["cases"][case.name] = found
                progress.update(task, total=found["rounds"], completed=found["rounds"])
                folder.write_json("bench.json", content)
            if not quick:
                total = sum(len(case["median_seconds"]) for case in content["cases"].values())
                task = progress.add_task("memory", total=total)
                for name, case in content["cases"].items():
                    for subject in case["median_seconds"]:
                        used = memory.process_bytes(name, subject, content["threads"])
                        case["process_bytes"][subject] = used
                        progress.advance(task)
                folder.write_json("bench.json", content)
            if not cases or _SCALING in cases:
                total = sum(3 if quick else len(values) for values in scaling.AXES.values())
                task = progress.add_task(_SCALING, total=total)
                points = scaling.points(quick, lambda: progress.advance(task))
                content[_SCALING] = list(points)
                folder.write_json("bench.json", content)
    except KeyboardInterrupt:
        code = INTERRUPTED
    folder.write_json("bench.json", content)
    _report(content, console)
    if _SCALING in content:
        from forwardly.experiments import (
            figures,  # matplotlib is slow to import, and only needed here
        )

        figures.save(figures.scaling_figure(content[_SCALING]), folder.path / "scaling.png")
        console.say(str(folder.path / "scaling.png"))
    console.say(str(folder.path / "bench.json"))
    return code


def _measured(
    case: Case, rounds: int, burst: float, most_builds: int, progress: Progress, task: TaskID
) -> dict[str, Any]:
    subjects = case.make()
    used = {
        name: memory.activation_bytes(subject)
        for name, subject in subjects.items()
        if isinstance(subject, steps.Step)
    }
    seconds: dict[str, NDArray[np.float64]] = {}
    over, under, builds = case.over, case.under, 0
    if case.of == "bytes":  # which are the same in every round
        found = Ratio(*(used[over] / used[under],) * len(fields(Ratio)))
    else:
        # When to stop hangs on how well the median is known, never on what it is.
        found: Ratio | None = None
        while found is None or builds < _BUILDS or (builds < most_builds and not found.is_narrow):
            if builds:
                subjects = case.make()
            gc.collect()
            progress.update(task, total=rounds * max(_BUILDS, builds + 1))
            part = paired(
                subjects, rounds=rounds, burst=burst, on_round=lambda: progress.advance(task)
            )
            seconds = {n: np.concatenate([seconds.get(n, part[n][:0]), part[n]]) for n in part}
            over, under = fastest(seconds, case.over), fastest(seconds, case.under)
            found = ratio(seconds[over], seconds[under])
            builds += 1
    return {
        "what": case.what,
        "call": case.call,
        "over": over,
        "under": under,
        "ratio": asdict(found),
        "must": case.must,
        "hope": case.hope,
        "lower": case.lower,
        "verdict": verdict(found, case.must, case.hope, lower=case.lower),
        "median_seconds": {name: float(np.median(times)) for name, times in seconds.items()},
        "rounds": rounds * builds,
        "activation_bytes": used,
        "process_bytes": {},
    }


def _report(content: dict[str, Any], console: PlainConsole) -> None:
    table = Table(show_lines=True)
    table.add_column("case")
    for heading in ("ratio", "95 % interval", "must", "hope", ""):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, case in content["cases"].items():
        found, sign = case["ratio"], "≤" if case["lower"] else "≥"
        said = {"hope": "reached", "must": "met"}.get(case["verdict"], case["verdict"])
        table.add_row(
            Text.assemble((name, "bold"), f": {case['what']}"),
            f"{found['median']:.2f}",
            f"{found['low']:.2f} … {found['high']:.2f}",
            f"{sign} {case['must']:g}",
            "" if case["hope"] is None else f"{sign} {case['hope']:g}",
            said,
        )
    if content["cases"]:
        console.table(table)
        console.table(_costs(content["cases"]))
    if any(case["verdict"] == "undecided" for case in content["cases"].values()):
        console.say(
            "Undecided: the goal lies in the interval, or among the middle half of the rounds. Run "
            "it again on an idle machine.",
            style="yellow",
        )
    for axis, slopes in scaling.slopes(content.get(_SCALING, [])).items():
        parts = ", ".join(f"{name} {a:.2f} (products {b:.2f})" for name, (a, b) in slopes.items())
        console.say(f"Exponent of a sample's time over {axis}: {parts}")


def _costs(cases: dict[str, Any]) -> Table:
    """What ratios are made of: time and memory."""
    table = Table()
    for heading in ("case", "subject"):
        table.add_column(heading)
    for heading in ("median time", "activities", "process"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, case in cases.items():
        for subject, seconds in case["median_seconds"].items():
            used = (case[kind].get(subject) for kind in ("activation_bytes", "process_bytes"))
            time = f"{1e3 * seconds:.3g} ms {case['call']}"
            table.add_row(name, subject, time, *map(_megabytes, used))
    return table


def _megabytes(number: int | None) -> str:
    return "" if number is None else f"{number / 1e6:.3g} MB"
