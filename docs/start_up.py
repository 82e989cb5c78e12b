"""Time whole commands, from the shell and back, beside the post's loop as a program of NumPy alone.

    python docs/start_up.py

takes two minutes, and writes records/start-up/start-up.json: the seconds of each run, of a
processor (user's and system's), so that what else the machine does counts little. All run on one
thread, so on an idle machine that is how long one waits. The first run on a machine is one that
finds nothing compiled; it has an empty folder for that.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
RECORD = ROOT / "records" / "start-up" / "start-up.json"
EPOCHS = 100_000
_TEACHER_STUDENT = "teacher-student"
_REPEATS = {
    "literal NumPy, pepita": 2,
    "literal NumPy, all three": 1,
    "teacher-student --rules pepita": 3,
    "teacher-student": 2,
    "teacher-student --rules pepita, the first run": 1,
    "--help": 3,
    "rules": 3,
}


def literal(rules: list[str]) -> None:
    """The post's experiment as one would write it down: what is timed, in a process of its own."""
    sys.path.append(str(ROOT / "tests"))
    import numpy as np

    from reference.blog import relu, teacher_student

    draws = np.random.default_rng(99)
    x = draws.random((1500, 16))
    y = relu(x @ draws.normal(0, 0.5, (16, 8))) @ draws.normal(0, 0.5, (8, 1))
    sets = x[:1000], y[:1000], x[1000:], y[1000:]
    w1, w2 = draws.uniform(-0.5, 0.5, (16, 8)), draws.uniform(-0.5, 0.5, (8, 1))
    F = draws.uniform(-0.03, 0.03, (1, 16))
    for rule in rules:
        teacher_student(*sets, w1, w2, F, epochs=EPOCHS, rule=rule)


def program(name: str, folder: str) -> list[str]:
    """The command line of what is timed."""
    if name.startswith("literal"):
        rules = ["pepita", "readout-only", "backprop"]
        return [__file__, "literal", *rules[: 1 if name.endswith("pepita") else 3]]
    words = name.removesuffix(", the first run").split()
    if words[0] == _TEACHER_STUDENT:
        words += ["--out", f"{folder}/run"]
    return ["-m", "forwardly", *words]


def seconds(name: str) -> float:
    """Of a processor, of one run."""
    with tempfile.TemporaryDirectory() as folder:
        surroundings = {**os.environ, "OMP_NUM_THREADS": "1"}
        if name.endswith("the first run"):
            surroundings["NUMBA_CACHE_DIR"] = folder
        line = [sys.executable, *program(name, folder)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Its arguments stand in this file.
        subprocess.run(line, check=True, capture_output=True, env=surroundings)  # noqa: S603
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure, in turn, and write the record."""
    from forwardly import files
    from forwardly.experiments.provenance import provenance
    from forwardly.fast import processors

    seconds("teacher-student --epochs 1")  # so that all but the first runs find it compiled
    found: dict[str, list[float]] = {name: [] for name in _REPEATS}
    for turn in range(max(_REPEATS.values())):
        for name, repeats in _REPEATS.items():
            if turn < repeats:
                found[name].append(round(seconds(name), 2))
    content = {"processor": processors.name(), "seconds": found, **provenance()}
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    files.write(RECORD, json.dumps(content, indent=1) + "\n")
    for name, each in found.items():
        sys.stdout.write(f"{name}: {' '.join(map(str, each))} s\n")


if __name__ == "__main__":
    literal(sys.argv[2:]) if sys.argv[1:2] == ["literal"] else main()
