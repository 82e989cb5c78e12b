"""Time runs at once on a GPU: what a step of one, five and ten networks of 3072-1024-10 takes.

    python docs/gpu.py [DEVICE]

takes half a minute, and writes records/gpu/seeds-at-once.json. That every rule computes there what
it computes on the processor, ``forwardly bench --device cuda --check`` sees.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

import forwardly as fw
from forwardly import files
from forwardly.benchmarks.check import images
from forwardly.experiments.recipe import Recipe, fit_at_once, prepare_on

RECORD = Path(__file__).parent.parent / "records" / "gpu" / "seeds-at-once.json"
_LARGE = Recipe(hidden=(1024,), epochs=3, learning_rate=0.01, dropout=0.3, flip=True)
_CLEAN: dict[str, float | int | str] = {"presynaptic": "clean", "projection": 0.4}
_TIMED = {"pepita": _CLEAN, "backprop": {}, "readout-only": {}}
_STEPS = 100
_AT_ONCE = 1, 5, 10


def milliseconds(rule: str, count: int, data: fw.Dataset, device: str) -> float:
    """What a step of so many networks takes, in the last of three epochs."""
    recipe = replace(_LARGE, rule=rule, options=_TIMED[rule])
    runs = [prepare_on(data, recipe, seed) for seed in range(count)]
    shared = data.to(device)
    fits = fit_at_once([replace(run.to(device), dataset=shared) for run in runs])
    return round(1e3 * sum(fit.rows[-1]["seconds"] for fit in fits) / _STEPS, 4)


def main(device: str) -> None:
    """Measure, and write the record."""
    large = images(_STEPS * _LARGE.batch + 64, (3, 32, 32), 10, validation=64)
    record: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "torch": torch.__version__,
        "milliseconds": {
            rule: {str(count): milliseconds(rule, count, large, device) for count in _AT_ONCE}
            for rule in _TIMED
        },
    }
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    files.write(RECORD, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["cuda"]))
