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

from forwardly.benchmarks import check as against
from forwardly.benchmarks import memory, on_cuda, scaling
from forwardly.benchmarks.cases import CASES, Case
from forwardly.benchmarks.steps import Step
from forwardly.benchmarks.timing import (
    Ratio,
    cuda_clock,
    fastest,
    paired,
    processors_clock,
    ratio,
    verdict,
)
from forwardly.commands.console import INTERRUPTED, PlainConsole, bars
from forwardly.commands.options import set_threads
from forwardly.errors import UsageError
from forwardly.experiments.provenance import provenance
from forwardly.experiments.run_folder import RunFolder
from forwardly.fast import processors
from forwardly.fast.devices import device_named
from forwardly.rules import RULES

_SCALING = "scaling"
_BUILDS = 3
"""How often networks are built anew at the least: new memory, and processors may have moved."""

_BUILDS_ON_GPU = 2
"""The same there, so that all cases and the check are done within five minutes."""

_MOST_BUILDS = 12
"""How often at most, where rounds go on until the median is known well."""


def bench(
    *,
    cases: tuple[str, ...] = (),
    quick: bool = False,
    threads: int | None = None,
    device: str = "cpu",
    check: bool = False,
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
    device
        cpu, or a GPU: cuda, cuda:1, …, for which the cases are others.
    check
        First hold what every rule computes on the GPU to what it computes on the processor; if
        something differs, nothing is timed.
    out
        Folder to write bench.json and scaling.png to; it must not hold anything yet (default:
        runs/bench/TIME).
    """
    place = device_named(device)
    if place.type not in ("cpu", "cuda"):
        raise UsageError(f"bench times processors and CUDA's devices; given {device!r}")
    if check and place.type == "cpu":
        raise UsageError("check holds a GPU to the processor: name one, as in --device cuda")
    on_gpu = place.type == "cuda"
    all_cases = on_cuda.cases(place) if on_gpu else CASES
    known = [*(case.name for case in all_cases), *(() if on_gpu else (_SCALING,))]
    unknown = [name for name in cases if name not in known]
    if unknown:
        raise UsageError(f"unknown case {unknown[0]!r}; the cases are {', '.join(known)}")
    set_threads(threads)
    chosen = [case for case in all_cases if not cases or case.name in cases]
    folder = RunFolder.new(out, "bench")
    content: dict[str, Any] = {
        "experiment": "bench",
        "quick": quick,
        "threads": torch.get_num_threads(),
        "processor": processors.name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        **({"device": torch.cuda.get_device_name(place)} if on_gpu else {}),
        **provenance(),
        "cases": {},
    }
    console = PlainConsole()
    versions = ", ".join(f"{name} {version}" for name, version in content["versions"].items())
    machine = f"{content['processor']}, {content['threads']} threads"
    console.say(f"{content.get('device', machine)}; {versions}")
    rounds, burst = (2, 0.05) if quick else (8, 0.05 if on_gpu else 0.2)
    least = _BUILDS_ON_GPU if on_gpu else _BUILDS
    builds = least, least if quick or on_gpu else _MOST_BUILDS
    code = 0
    try:
        with bars(console) as progress:
            if check:
                content["check"] = _checked(device, progress)
                folder.write_json("bench.json", content)
                if _say_what_differs(content["check"], console):
                    return 1
            for case in chosen:
                if why_not := case.why_not():
                    console.say(f"{case.name} left out: {why_not}")
                    continue
                task = progress.add_task(case.name, total=rounds * least)
                with on_cuda.products_in(case.tf32):
                    found = _measured(case, rounds, burst, builds, on_gpu, progress, task)
                content["cases"][case.name] = found
                progress.update(task, total=found["rounds"], completed=found["rounds"])
                folder.write_json("bench.json", content)
            if not (quick or on_gpu):
                total = sum(len(case["median_seconds"]) for case in content["cases"].values())
                task = progress.add_task("memory", total=total)
                for name, case in content["cases"].items():
                    for subject in case["median_seconds"]:
                        used = memory.process_bytes(name, subject, content["threads"])
                        case["process_bytes"][subject] = used
                        progress.advance(task)
                folder.write_json("bench.json", content)
            if _SCALING in (cases or known):
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


def _checked(device: str, progress: Progress) -> dict[str, Any]:
    """How far every rule on a device is from what it is on the processor, and the kernel."""
    task, data = progress.add_task("check", total=len(RULES)), against.small_images()
    found: dict[str, Any] = {}
    for rule in RULES:
        different = against.differences(rule, data, device)
        found[rule] = {**different._asdict(), "wrong": different.wrong()}
        progress.advance(task)
    return {"rules": found, "kernel": against.of_kernel(device)}


def _say_what_differs(found: dict[str, Any], console: PlainConsole) -> bool:
    """Whether something does."""
    wrong = {rule: of_rule["wrong"] for rule, of_rule in found["rules"].items() if of_rule["wrong"]}
    if found["kernel"] > against.MOST_OF_KERNEL:
        wrong["the kernel"] = ["weights"]
    for name, what in wrong.items():
        console.say(f"{name} differs from the processor in: {', '.join(what)}", style="red")
    if not wrong:
        count = len(found["rules"])
        console.say(f"{count} rules compute what they compute on the processor, up to rounding.")
    return bool(wrong)


def _measured(
    case: Case,
    rounds: int,
    burst: float,
    builds_from_to: tuple[int, int],
    on_gpu: bool,
    progress: Progress,
    task: TaskID,
) -> dict[str, Any]:
    subjects = case.make()
    count = on_cuda.allocated_bytes if on_gpu else memory.activation_bytes
    used = {name: count(subject) for name, subject in subjects.items() if isinstance(subject, Step)}
    seconds: dict[str, NDArray[np.float64]] = {}
    over, under, builds = case.over, case.under, 0
    least, most = builds_from_to
    if case.of == "bytes":  # which are the same in every round
        found = Ratio(*(used[over] / used[under],) * len(fields(Ratio)))
    else:
        # When to stop hangs on how well the median is known, never on what it is.
        found: Ratio | None = None
        while found is None or builds < least or (builds < most and not found.is_narrow):
            if builds:
                subjects = case.make()
            gc.collect()
            progress.update(task, total=rounds * max(least, builds + 1))
            part = paired(
                subjects,
                rounds=rounds,
                burst=burst,
                on_round=lambda: progress.advance(task),
                clock=cuda_clock if on_gpu else processors_clock,
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
