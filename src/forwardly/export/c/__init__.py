"""A training step as one file of C99, for microcontrollers.

``plan`` says what of a rule, its model and its optimizer can be written so, and refuses the rest by
name. ``source`` makes the files of it, from ``templates/``, in which each rule has a file.
"""

from __future__ import annotations

from forwardly.export.c.source import NAMES, Sizes, write_c

__all__ = ["NAMES", "Sizes", "write_c"]
