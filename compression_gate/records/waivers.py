"""`waivers.yaml`: limits that a named person lets be broken for a while, up to a ceiling."""

from __future__ import annotations

from compression_gate.records.base import Record

FILE_NAME = "waivers.yaml"


class Waiver(Record):
    """One waiver, as written.

    Args:
        rule: the rule of `params.yaml` it covers; slice: one of its slices (None: every one).
        ceiling: the largest degradation, or the worst value of an absolute limit, that it covers, in the metric's unit.
        expires: a date (``2026-12-31``, the last day on which it covers) or the name of a release, with which it ends.
        release: whether it also covers under the policy ``release``.
        since: the date on which it was written, where that is known.
    """

    rule: str
    slice: str | None = None
    ceiling: float
    reason: str
    owner: str
    expires: str
    release: bool = False
    since: str | None = None
