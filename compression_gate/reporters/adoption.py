"""What to adopt where a gate fails: a recipe of a stored front that met these very limits on validation data."""

from __future__ import annotations

from collections.abc import Sequence

from compression_gate.records.base import digest_of
from compression_gate.records.metric_table import QUALITY, kind_of
from compression_gate.records.params import Params
from compression_gate.records.search import Placed, SearchRecord
from compression_gate.records.verdict import Verdict


def adoptions(
    verdict: Verdict, params: Params, recipe_digest: str | None, searches: Sequence[SearchRecord]
) -> tuple[str, ...]:
    """One sentence for each search that found such a recipe; none where the verdict passes.

    Only fronts that were judged by these rules count. Where the quality failed, the candidate of the front that lost
    least is named, else the one that the search preferred.

    Args:
        recipe_digest: of the candidate that failed, which is not named again.
    """
    if verdict.status not in ("fail", "undecided"):
        return ()
    rules = digest_of(params.as_dict()["gate"])
    broken = {check.metric for check in verdict.checks if check.status != "pass" and check.level == "block"}
    quality = any(kind_of(metric) in QUALITY for metric in broken)
    found = []
    for search in searches:
        placed = [one for one in search.front if one.trial.recipe_digest != recipe_digest and one.recipe is not None]
        if placed and search.rules_digest == rules:
            found.append(sentence(chosen(placed, search, quality=quality), search, verdict))
    return tuple(found)


def chosen(placed: Sequence[Placed], search: SearchRecord, *, quality: bool) -> Placed:
    """The candidate that is likeliest to help; of those that were proven within their limits, if there are any."""
    proven = [one for one in placed if one.trial.proven] or list(placed)
    best = next((one for one in proven if search.best and one.trial.number == search.best.number), None)
    if quality or best is None:
        return min(proven, key=lambda one: search.quality_lost(one.trial))
    return best


def sentence(placed: Placed, search: SearchRecord, verdict: Verdict) -> str:
    """What it reached, and the line that adopts it."""
    figures = placed.trial.answer.figures
    told = f"{figures['size_bytes']:,.0f} bytes, {search.metric} {figures[search.metric]:.4f}"
    other = "" if verdict.reference.digest == search.reference_digest else ", made of another reference"
    return (
        f"{placed.recipe} met these limits on validation data ({told}; search {search.name}, trial "
        f"{placed.trial.number}{other}). To adopt it, in params.yaml: compress: {{recipe: {placed.recipe}}}, "
        "then compression-gate init --refresh"
    )
