"""Checks of annotations, and how a test says that it wants none."""

from __future__ import annotations

import os
from collections.abc import Iterator

import jaxtyping
import pytest

# A test worker a core, so one thread a worker, and a process that a test starts: more would wait
# for each other. Read when torch is first imported.
os.environ["OMP_NUM_THREADS"] = "1"


@pytest.fixture(autouse=True)
def _annotations(request: pytest.FixtureRequest) -> Iterator[None]:
    """Under pytest every call is checked against its annotations (see addopts in pyproject.toml).

    Tests marked ``unchecked`` run as users do; say, to see the library's own word on wrong types.
    """
    unchecked = request.node.get_closest_marker("unchecked") is not None
    jaxtyping.config.update("jaxtyping_disable", unchecked)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
