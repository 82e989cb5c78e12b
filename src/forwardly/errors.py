"""The one error that commands show without a traceback."""

from __future__ import annotations


class UsageError(ValueError):
    """A mistake of the user's; the message says what was given, what is expected, what to do."""
