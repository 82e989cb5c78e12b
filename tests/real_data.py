"""The real MNIST and CIFAR-10, where the machine has them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest


def real_data(name: str) -> Path:
    """The folder that holds NAME.npz; the test is skipped where there is none."""
    root = os.environ.get("FORWARDLY_DATA")
    if not root or not (Path(root) / f"{name}.npz").exists():
        pytest.skip(f"needs {name}.npz in the folder that FORWARDLY_DATA names")
    return Path(root)
