"""Settings of a run as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings side by side, as "outer.inner"."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= flat(cast(Mapping[str, Any], value), f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found
