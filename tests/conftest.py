"""Checks of annotations, and how a test says that it wants none."""

from __future__ import annotations

from collections.abc import Iterator

import jaxtyping
import pytest


@pytest.fixture(autouse=True)
def _annotations(request: pytest.FixtureRequest) -> Iterator[None]:
    """Under pytest every call is checked against its annotations (see addopts in pyproject.toml).

    Tests marked ``unchecked`` run as users do; say, to see the library's own word on wrong types.
    """
    unchecked = request.node.get_closest_marker("unchecked") is not None
    jaxtyping.config.update("jaxtyping_disable", unchecked)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
