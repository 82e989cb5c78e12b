"""See on a GPU that every rule computes what it computes on the processor, and time runs at once.

    python docs/gpu.py [DEVICE]

takes a minute, and writes records/gpu/seeds-at-once.json: for each rule the largest difference of
an update (relative), of the weights after two epochs of three runs at once, and of the loss; and
what a step of one, five and ten networks of 3072-1024-10 takes.
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
from forwardly.experiments.recipe import Recipe, fit_at_once, prepare_on

RECORD = Path(__file__).parent.parent / "records" / "gpu" / "seeds-at-once.json"
_SMALL = Recipe(
    hidden=(12, 10),
    epochs=2,
    batch=32,
    milestones=(1,),
    dtype="float64",
    dropout=0.2,
    flip=True,
    shift=1,
)
_LARGE = Recipe(hidden=(1024,), epochs=3, learning_rate=0.01, dropout=0.3, flip=True)
_CLEAN: dict[str, float | int | str] = {"presynaptic": "clean", "projection": 0.4}
_TIMED = {"pepita": _CLEAN, "backprop": {}, "readout-only": {}}
_STEPS = 100
_AT_ONCE = 1, 5, 10


def images(count: int, shape: tuple[int, ...], classes: int, validation: int) -> fw.Dataset:
    """Random ones, whose class has nothing to do with them."""
    drawn = torch.rand(count, *shape, generator=torch.Generator().manual_seed(0)) - 0.5
    return fw.Dataset.from_arrays(drawn, torch.arange(count) % classes, validation=validation)


def differences(rule: str, data: fw.Dataset, device: str) -> dict[str, float]:
    """Of a rule on a device from what it does on the processor, in float64."""
    own = fw.RULES[rule].needs_learning_rate  # then the rates of runs at once are equal
    rates = (0.05, 0.05, 0.05) if own else (0.05, 0.02, 0.1)
    recipes = [replace(_SMALL, rule=rule, learning_rate=rate) for rate in rates]
    here, there = (
        [prepare_on(data, recipe, seed).to(where) for seed, recipe in enumerate(recipes)]
        for where in ("cpu", device)
    )
    x, target = data.train.batch(slice(_SMALL.batch), torch.float64)
    expected = here[0].rule(x, target).updates
    found = there[0].rule(x.to(device), target.to(device)).updates
    of_updates = (
        float((found[name].cpu() - update).abs().max() / update.abs().max().clamp(min=1e-30))
        for name, update in expected.items()
    )
    alone, together = [run.fit() for run in here], fit_at_once(there)
    of_states = (
        float((value - other.cpu()).abs().max())
        for one, two in zip(here, there, strict=True)
        for value, other in zip(
            one.rule.state_dict().values(), two.rule.state_dict().values(), strict=True
        )
        if value.is_floating_point()
    )
    of_losses = (
        abs(one.rows[-1]["loss"] - two.rows[-1]["loss"])
        for one, two in zip(alone, together, strict=True)
    )
    return {"update": max(of_updates), "weights": max(of_states), "loss": max(of_losses)}


def milliseconds(rule: str, count: int, data: fw.Dataset, device: str) -> float:
    """What a step of so many networks takes, in the last of three epochs."""
    recipe = replace(_LARGE, rule=rule, options=_TIMED[rule])
    runs = [prepare_on(data, recipe, seed) for seed in range(count)]
    shared = data.to(device)
    fits = fit_at_once([replace(run.to(device), dataset=shared) for run in runs])
    return round(1e3 * sum(fit.rows[-1]["seconds"] for fit in fits) / _STEPS, 4)


def main(device: str) -> None:
    """Measure, and write the record."""
    small = images(362, (1, 6, 6), 3, validation=42)
    large = images(_STEPS * _LARGE.batch + 64, (3, 32, 32), 10, validation=64)
    record: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else device,
        "torch": torch.__version__,
        "differences": {rule: differences(rule, small, device) for rule in fw.RULES},
        "milliseconds": {
            rule: {str(count): milliseconds(rule, count, large, device) for count in _AT_ONCE}
            for rule in _TIMED
        },
    }
    RECORD.parent.mkdir(parents=True, exist_ok=True)
    files.write(RECORD, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(*(sys.argv[1:] or ["cuda"]))
