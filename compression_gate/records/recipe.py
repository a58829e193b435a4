"""A recipe: the ordered steps that turn the reference into the candidate, with a digest, in a file of their own."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError

from compression_gate.errors import ParamsError
from compression_gate.records.base import Record, digest_of, write_text
from compression_gate.records.document import Document
from compression_gate.records.params import Step


class Provenance(Record):
    """Where a recipe that a search wrote came from; nothing but a note, the gate judges it like any other.

    Args:
        trial: its number, of ``trials`` in all.
        space: the slots that were searched, as declared or as they were made to suit the model; ``space_digest`` of all
            that could be chosen in them.
        budget: what the search was given: trials, minutes, or the bytes to end at.
        rests_on: digest of the space, the rules, the code and everything else that the search rested on.
        feasible: whether the gate's judge let it through on the validation split, and ``validation`` its figures there.
        distances: of each rule, how far outside its limit as a share of it; 0 within, None where nothing was judged.
    """

    search: str
    searcher: str
    seed: int
    trial: int
    trials: int
    budget: dict[str, float] = {}
    space: tuple[dict[str, Any], ...] = ()
    space_digest: str | None = None
    rests_on: str
    reference_digest: str
    package_version: str
    feasible: bool
    validation: dict[str, float]
    distances: dict[str, float | None]


class Recipe(Record):
    """Steps in the order they are applied; the options of each are checked by its method."""

    schema_number: Literal[1] = Field(1, alias="schema")
    steps: tuple[Step, ...]
    provenance: Provenance | None = None

    @property
    def digest(self) -> str:
        """Changes with any method, option or order; not with the file's layout."""
        return recipe_digest(self.steps)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a recipe file, as ``compress.recipe`` names it.

        Raises:
            ParamsError: no such file, no YAML, or no recipe; every problem with its key path.
        """
        if not path.exists():
            raise ParamsError(
                f"{path}: missing: compress.recipe names it: run `compression-gate search`, or write compress.steps"
            )
        document = Document(path, str(path))
        if document.problems:
            raise ParamsError(document.problems)
        try:
            return cls.model_validate(document.values)
        except ValidationError as error:
            raise ParamsError(problems_of(path, error)) from error

    def as_text(self) -> str:
        """The recipe as YAML."""
        values = self.model_dump(mode="json", by_alias=True, exclude_none=True, include={"schema_number", "provenance"})
        values["steps"] = [step.model_dump(mode="json") for step in self.steps]
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)

    def write(self, path: Path) -> None:
        """Write as YAML under a temporary name, then rename."""
        write_text(path, self.as_text())


def recipe_digest(steps: Iterable[Step]) -> str:
    """SHA-256 over methods and options in order; ``1`` and ``1.0`` are one number."""
    return digest_of([plain({"method": step.method, **step.options}) for step in steps])


def plain(value: Any) -> Any:
    """Return the value with whole floats as integers, so that equal numbers are written alike."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def problems_of(path: Path, error: ValidationError) -> list[str]:
    """Say each of pydantic's findings as ``file: key.path: expected …, got …``."""
    found = []
    for item in error.errors():
        where = ".".join(str(part) for part in item["loc"])
        message = item["msg"].removeprefix("Value error, ").replace("Input should be", "expected")
        found.append(f"{path}: {where + ': ' if where else ''}{message}, got {item['input']!r}")
    return found
