"""Words that somebody else chose, made harmless: forges act on more than markup.

The Markdown reporter takes care of markup. A forge also makes links of bare addresses and of numbers behind `#`, tells
people who are mentioned, and prints characters that reorder the text around them.
"""

from __future__ import annotations

import json
import re
from typing import Any, TypeVar

from compression_gate.records.base import Record

R = TypeVar("R", bound=Record)

APART = "\u200b"  # zero-width space: nobody sees it, and nothing is a mention, a reference or an address across it
# Control characters but tab and newline; marks that reorder text (bidirectional) or hide in it (tags, joiners' kin).
UNSEEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\U000e0000-\U000e007f]"
)
# @somebody, #12, ##[command] in a log, GH-12, !12 (GitLab), https://…, www.…
ACTIVE = re.compile(r"@(?=\w)|#(?=[\d\[])|\bGH(?=-\d)|!(?=\d)|:(?=//)|\bwww(?=\.)", flags=re.IGNORECASE)


def disarmed(text: str) -> str:
    """The same words, with no effect on whom or what they name."""
    return ACTIVE.sub(lambda found: found[0] + APART, UNSEEN.sub("", text))


def line(text: str, longest: int = 300) -> str:
    """One line of at most so many characters, disarmed."""
    text = " ".join(disarmed(text).split())
    return text if len(text) <= longest else text[: longest - 1] + "…"


def walked(value: Any) -> Any:
    """Plain values, every text and key in them disarmed."""
    if isinstance(value, str):
        return disarmed(value)
    if isinstance(value, dict):
        return {walked(key): walked(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [walked(one) for one in value]
    return value


def disarmed_record(record: R) -> R:
    """A record whose every text is disarmed."""
    return type(record).model_validate_json(json.dumps(walked(record.model_dump(mode="json", by_alias=True))))
