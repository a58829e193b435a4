"""The journal of a search: every question and every answer, one line each, written before anything rests on it."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

from pydantic import Field, ValidationError

from compression_gate.errors import SearchError
from compression_gate.records.base import Record
from compression_gate.records.trial import Answer, Genome

log = logging.getLogger("compression_gate")


class Header(Record):
    """The first line: what the search rests on.

    Args:
        digest: of everything that a trial or a proposal depends on; a journal of another search is not continued.
        told: the same in words, so that the difference can be named.
    """

    schema_number: Literal[1] = Field(1, alias="schema")
    digest: str
    told: dict[str, str] = {}


class Asked(Record):
    """A proposal, as the searcher made it."""

    event: Literal["asked"] = "asked"
    number: int
    genome: Genome
    origin: str


class Answered(Record):
    """What came of a trial at one share of the training data; ``at_s``: seconds of search before it, in all runs."""

    event: Literal["answered"] = "answered"
    number: int
    share: float
    answer: Answer
    at_s: float


class Reference(Record):
    """What the reference itself, as it ships, is measured at: what all objectives are held against."""

    event: Literal["reference"] = "reference"
    answer: Answer


Event = Asked | Answered | Reference
KINDS: dict[str, type[Event]] = {"asked": Asked, "answered": Answered, "reference": Reference}


class Journal:
    """An open journal: events are appended and flushed to disk one by one, and answers read back from there.

    Answers stay on disk, so that a search of any length holds only where each begins.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.file = path.open("a+b")

    def append(self, event: Event | Header) -> int:
        """Write one line, which is on disk when this returns; return where it begins."""
        self.file.seek(0, os.SEEK_END)
        place = self.file.tell()
        text = json.dumps(event.model_dump(mode="json", by_alias=True), allow_nan=False)
        self.file.write(text.encode() + b"\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        return place

    def answered_at(self, place: int) -> Answered:
        """The answer whose line begins there."""
        self.file.seek(place)
        return Answered.model_validate_json(self.file.readline())

    def close(self) -> None:
        """Close the file."""
        self.file.close()


def begin(path: Path, header: Header) -> Journal:
    """Begin a new journal in place of whatever is there."""
    path.unlink(missing_ok=True)
    journal = Journal(path)
    journal.append(header)
    return journal


def resume(path: Path, header: Header) -> tuple[Journal, Iterator[tuple[int, Event]]]:
    """Open a journal to go on with, and its events with the places they begin at; a line cut by a kill is dropped.

    Raises:
        SearchError: there is none, it is damaged before its last line, or it is of another search.
    """
    if not path.exists():
        raise SearchError(f"{path}: expected the journal of a search to resume, got none: leave --resume out")
    drop_cut_line(path)
    with path.open("rb") as file:
        first = file.readline()
    if not first:
        return begin(path, header), iter(())
    check_header(path, first.decode("utf-8", errors="replace"), header)
    return Journal(path), events_of(path)


def drop_cut_line(path: Path) -> None:
    """End the file with its last whole line."""
    with path.open("r+b") as file:
        end = whole = file.seek(0, os.SEEK_END)
        while whole and not ends_with_a_line(file, whole):
            whole -= 1
        if whole < end:
            log.warning("%s: the last line was cut short: that trial is carried out again", path)
            file.truncate(whole)


def ends_with_a_line(file: BinaryIO, end: int) -> bool:
    """Whether the byte before ``end`` ends a line."""
    file.seek(end - 1)
    return file.read(1) == b"\n"


def events_of(path: Path) -> Iterator[tuple[int, Event]]:
    """Every event of a journal, and the place of its line."""
    with path.open("rb") as file:
        place = len(file.readline())
        for number, line in enumerate(file, start=2):
            yield place, event_of(line.decode("utf-8", errors="replace"), f"{path}:{number}")
            place += len(line)


def check_header(path: Path, line: str, header: Header) -> None:
    """Make sure that the journal is of this search."""
    try:
        found = Header.model_validate_json(line)
    except ValidationError as error:
        raise SearchError(f"{path}:1: expected the first line of a journal, got {line[:80]!r}: delete it") from error
    if found.digest != header.digest:
        names = {**header.told, **found.told}
        changed = [name for name in names if header.told.get(name) != found.told.get(name)]
        raise SearchError(
            f"{path}: expected the journal of this very search, got one with other {', '.join(changed) or 'code'}: "
            "change it back, or begin anew without --resume"
        )


def event_of(line: str, where: str) -> Event:
    """Read one line."""
    try:
        values = json.loads(line)
        return KINDS[values["event"]].model_validate_json(line)
    except (ValueError, KeyError, TypeError) as error:  # pydantic's errors are ValueErrors
        raise SearchError(f"{where}: expected an event of a search, got {line[:80]!r}: the file is damaged") from error
