"""JSON that somebody may have edited, cut short or mistaken for something else, field by field.

A value is checked where it is taken out, so what is made of a file can be relied upon; what is
wrong with one is told in a line that names the file and the field.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn, cast

from forwardly import files


class Fields:
    """An object in a JSON file; methods raise UsageError where a field is not what they give.

    Args:
        path: of the file.
        content: the object.
        place: where it is in the file, such as "result"; empty if it is the whole.
    """

    def __init__(self, path: Path, content: object, place: str = "") -> None:
        if not isinstance(content, dict):
            where = f" as {place}" if place else ""
            files.refuse(path, f"must have an object{where}, and has {reprlib.repr(content)}")
        self.path, self.place = path, place
        self.content = cast(Mapping[str, Any], content)

    @classmethod
    def read(cls, path: Path) -> Fields:
        """A file's.

        Raises:
            UsageError: if there is no such file, or no object in it.
        """
        text = files.read_text(path)
        try:
            content = json.loads(text)
        except ValueError as problem:
            files.refuse(path, f"is no JSON ({problem})")
        except RecursionError:
            files.refuse(path, "is nested too deep")
        return cls(path, content)

    def __contains__(self, name: str) -> bool:
        """Whether a field is there, and not null."""
        return self.content.get(name) is not None

    def __iter__(self) -> Iterator[str]:
        """The fields' names."""
        return iter(self.content)

    def refuse(self, name: str, expected: str) -> NoReturn:
        """Say what a field must be."""
        given = reprlib.repr(self.content[name]) if name in self.content else "none"
        files.refuse(self.path, f"must have {expected} as {self._at(name)}, and has {given}")

    def text(self, name: str, *choices: str) -> str:
        """Text that is not empty; one of the choices, if there are any."""
        value = self.content.get(name)
        if not isinstance(value, str) or not value or (choices and value not in choices):
            self.refuse(name, " or ".join(choices) or "text")
        return value

    def flag(self, name: str) -> bool:
        """True or false."""
        value = self.content.get(name)
        if not isinstance(value, bool):
            self.refuse(name, "true or false")
        return value

    def whole(self, name: str, low: int = 0) -> int:
        """A whole number of at least ``low``."""
        value = self.content.get(name)
        if type(value) is not int or not low <= value < 2**63:
            self.refuse(name, f"a whole number of at least {low}")
        return value

    def number(self, name: str) -> float:
        """A number, NaN or infinite where training diverged."""
        value = self.content.get(name)
        if type(value) is not float and (type(value) is not int or abs(value) >= 2**63):
            self.refuse(name, "a number")
        return float(value)

    def share(self, name: str) -> float:
        """A number from 0 to 1."""
        value = self.number(name)
        if not 0 <= value <= 1:
            self.refuse(name, "a number from 0 to 1")
        return value

    def fields(self, name: str) -> Fields:
        """An object."""
        if name not in self.content:
            self.refuse(name, "an object")
        return Fields(self.path, self.content[name], self._at(name))

    def list(self, name: str) -> Fields:
        """A list, whose fields are called 0, 1, …."""
        value = self.content.get(name)
        if not isinstance(value, list):
            self.refuse(name, "a list")
        content = {str(i): item for i, item in enumerate(cast(list[Any], value))}
        return Fields(self.path, content, self._at(name))

    def _at(self, name: str) -> str:
        return f"{self.place}.{name}" if self.place else name
