"""What the holdout said: examples that no pull request was ever judged on."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from compression_gate.records.base import Record
from compression_gate.records.verdict import Check

SUFFIX = " (holdout)"  # behind the name of a rule that was judged there


class Holdout(Record):
    """`.compression_gate/holdout/verdict.json`: the quality rules, judged on the split ``holdout``.

    It speaks of these models, params and sources, named by their digests, and of no others; ``models`` maps their
    folders as a verdict's ``bindings`` do.
    """

    schema_number: Literal[2] = Field(2, alias="schema")
    n: int
    models: dict[str, str]
    params_digest: str
    sources_digest: str
    package_version: str
    checks: tuple[Check, ...]
