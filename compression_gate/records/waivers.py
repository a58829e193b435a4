"""`waivers.yaml`: limits that a named person lets be broken for a while, up to a ceiling."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import StringConstraints, ValidationError

from compression_gate.errors import ParamsError
from compression_gate.records.base import Record
from compression_gate.records.document import Document
from compression_gate.records.params import Params
from compression_gate.records.release_name import NAME, bare
from compression_gate.records.rules import Limit, LimitField, Rule, parse_limit, rule_problems
from compression_gate.registry import nearest, unknown

FILE_NAME = "waivers.yaml"
Filled = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]


class Waiver(Record):
    """One waiver, as written.

    Args:
        rule: the rule of `params.yaml` it covers; slice: one of its slices (None: every one).
        ceiling: the largest degradation, or the worst value of an absolute limit, that it covers: in the metric's unit,
            or a share like "8%" where the rule's limit is one.
        expires: a date (``2026-12-31``, the last day on which it covers) or the name of a release, with which it ends.
        release: whether it also covers under the policy ``release``.
        since: the date on which it was written, where that is known.
    """

    rule: str
    slice: str | None = None
    ceiling: LimitField
    reason: Filled
    owner: Filled
    expires: Filled
    release: bool = False
    since: str | None = None


EXPECTED = {
    "rule": "the name of a rule of params.yaml",
    "slice": "a slice like 'class=3'",
    "ceiling": "a finite number, or a share like '5%'",
    "reason": "a sentence",
    "owner": "a name",
    "expires": "a date like 2026-12-31, or the name of a release like '1.2.0'",
    "release": "true or false",
    "since": "a date like 2026-01-31",
}
REQUIRED = tuple(name for name, field in Waiver.model_fields.items() if field.is_required())
# What was meant as a date and is none must not become a release that never comes.
LIKE_A_DATE = re.compile(r"\d{1,4}[-/]\d{1,2}[-/]\d{1,4}([T ].*)?|\d{1,2}\.\d{1,2}\.\d{4}")

Problem = tuple[str, str]  # a key of a waiver ("" for the waiver itself), and what is wrong with it


class WaiversDocument(Document):
    """A list of mappings, whose key paths read ``[0].rule``."""

    def where(self, path: tuple[str, ...]) -> str:
        """How a key path is written in a message."""
        return ".".join((f"[{path[0]}]", *path[1:])) if path else ""


def read_waivers(suite: Path, params: Params, *, today: date, releases: Collection[str] = ()) -> tuple[Waiver, ...]:
    """Read ``waivers.yaml`` of a suite; a file that is absent or empty holds none.

    Args:
        releases: names of the releases that exist; a waiver that ends with one of them has expired.

    Raises:
        ParamsError: every problem at once, each ``waivers.yaml:line: [0].key: expected …, got …``. A waiver that has
            expired is one of them: whoever lets it lie there decides so anew, or takes it out.
    """
    path = suite / FILE_NAME
    if not path.exists():
        return ()
    document = WaiversDocument(path, FILE_NAME)
    entries = [] if document.values is None else document.values
    if not isinstance(entries, list):
        raise ParamsError(
            f"{FILE_NAME}:1: expected a list of waivers ('- rule: …'), got {type(entries).__name__}: "
            "begin each waiver with '- '"
        )
    for index, entry in enumerate(entries):
        for key, text in problems_of(entry, params, today=today, releases=releases):
            document.problem((str(index), *([key] if key else [])), text)
    for index, text in repeated(entries, params):
        document.problem((str(index),), text)
    if document.problems:
        raise ParamsError(sorted(dict.fromkeys(document.problems), key=lambda text: int(text.split(":")[1])))
    return tuple(parsed(entry) for entry in entries)


def parsed(entry: Mapping[str, Any]) -> Waiver:
    """Turn a mapping of YAML values into a waiver; nothing is converted silently.

    Raises:
        ValidationError: a key is unknown or missing, or a value of another type.
    """
    plain = {str(key): value for key, value in entry.items()}
    return Waiver.model_validate_json(json.dumps(plain, default=str), strict=True)


def problems_of(entry: Any, params: Params, *, today: date, releases: Collection[str]) -> Iterator[Problem]:
    """What is wrong with one waiver by itself."""
    if not isinstance(entry, Mapping):
        yield "", f"expected a mapping with {', '.join(REQUIRED)}, got {entry!r}"
        return
    broken = set()
    try:
        parsed(entry)
    except ValidationError as error:
        for item in error.errors():
            key = str(item["loc"][0])
            broken.add(key)
            yield key, described(item["type"], key, entry.get(key))
    told: dict[str, Any] = {key: entry.get(key) for key in Waiver.model_fields if key not in broken}
    if "rule" in told:
        yield from rule_faults(told, params)
    if "expires" in told and (text := expiry_fault(told["expires"].strip(), today, releases)):
        yield "expires", text
    if told.get("since") is not None and day_of(told["since"]) is None:
        yield "since", f"expected {EXPECTED['since']}, got {told['since']!r}"


def described(kind: str, key: str, got: Any) -> str:
    """Turn one of pydantic's findings into our words."""
    if kind == "extra_forbidden":
        return unknown(key, list(Waiver.model_fields))
    if kind == "missing":
        return f"is required and missing: expected {EXPECTED[key]}"
    return f"expected {EXPECTED[key]}, got {got!r}"


def rule_faults(told: Mapping[str, Any], params: Params) -> Iterator[Problem]:
    """What of a waiver does not fit the rule it speaks of."""
    name, rules = told["rule"], params.gate.rules
    if (rule := rules.get(name)) is None:
        known = f"one of gate.rules ({', '.join(rules)})" if rules else "a rule, and params.yaml has none"
        yield "rule", f"expected {known}, got {name!r}{nearest(name, rules)}"
        return
    if told.get("slice") is not None and (text := slice_fault(name, rule, told["slice"])):
        yield "slice", text
    if "ceiling" in told:
        yield from (("ceiling", text) for text in ceiling_faults(name, rule, told["ceiling"], params.task.kind))


def slice_fault(name: str, rule: Rule, part: str) -> str | None:
    """Say that a rule has no such slice."""
    if rule.slice is None:
        return f"gate.rules.{name} has no slice: take this line out, got {part!r}"
    column, _, value = part.partition("=")
    if part == rule.slice or (column == rule.slice and value):
        return None
    one = "" if "=" in rule.slice else f", or one of it like '{rule.slice}=…'"
    return f"expected {rule.slice!r}, as gate.rules.{name} has it{one}, got {part!r}{nearest(column, [rule.slice])}"


def ceiling_faults(name: str, rule: Rule, value: Any, kind: str) -> Iterator[str]:
    """Say why a ceiling cannot stand above the rule's limit.

    A ceiling is a limit in the rule's place, so that whatever is impossible as a limit is impossible as a ceiling.
    """
    limit, ceiling = rule.limit, Limit(**parse_limit(value))
    if limit.relative != ceiling.relative:
        wanted = "a share like '8%'" if limit.relative else "a number in the metric's own unit"
        yield f"expected {wanted}, as the limit {rule.form} {limit} of gate.rules.{name} is one, got {value!r}"
        return
    looser = ceiling.value < limit.value if rule.form == "min" else ceiling.value > limit.value
    if not looser:
        side = "less" if rule.form == "min" else "more"
        own = f"gate.rules.{name}'s own limit {rule.form} {limit}"
        yield f"expected {side} than {own}, got {ceiling}: it waives nothing"
        return
    for _, text in rule_problems(name, rule.model_copy(update={rule.form: ceiling}), kind):
        yield text


def today_utc() -> date:
    """The day by which waivers end: that of UTC, so that a verdict does not hang on the machine's time zone."""
    return datetime.now(UTC).date()


def day_of(text: str) -> date | None:
    """The date that ``2026-12-31`` is, or None."""
    if not re.fullmatch(r"\d{4}-\d{2}-\d{2}", text.strip(), flags=re.ASCII):
        return None
    try:
        return date.fromisoformat(text.strip())
    except ValueError:  # a day that the calendar lacks
        return None


def expiry_fault(expires: str, today: date, releases: Collection[str]) -> str | None:
    """Say that a waiver has ended, or that it names no end."""
    if (day := day_of(expires)) is not None:
        return f"expired on {day}: renew or remove it" if today > day else None
    if LIKE_A_DATE.fullmatch(expires) or not NAME.fullmatch(expires):
        return f"expected {EXPECTED['expires']}, got {expires!r}"
    ended = next((name for name in releases if bare(name) == bare(expires)), None)
    return f"expired with release {ended}: renew or remove it" if ended else None


def repeated(entries: list[Any], params: Params) -> Iterator[tuple[int, str]]:
    """Waivers of a rule and slice that an earlier one speaks of already."""
    first: dict[tuple[str, str | None], int] = {}
    for index, entry in enumerate(entries):
        if not isinstance(entry, Mapping) or (rule := params.gate.rules.get(str(entry.get("rule")))) is None:
            continue
        part = entry.get("slice")
        key = (str(entry["rule"]), None if part in (None, rule.slice) else str(part))
        if key in first:
            yield index, f"says again what [{first[key]}] says of {key[0]}: keep one of them"
        first.setdefault(key, index)
