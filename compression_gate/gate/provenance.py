"""Records are of the params that judge them: what was made with others is stale, however whole it is."""

from __future__ import annotations

from collections.abc import Iterator

from compression_gate.gate.evidence import MENDING
from compression_gate.gate.facts import Facts
from compression_gate.records.provenance import changed_params
from compression_gate.records.verdict import Check

UNSIGNED = "run again: `compression-gate run --force`"  # a version that signed nothing may be this one's number


def other_params(facts: Facts) -> Iterator[Check]:
    """A record that was made with other params than those of now, or that does not say with which."""
    made = {
        "data": ("prepare", facts.data),
        "reference": ("train", facts.artifacts.get("reference")),
        "candidate": ("compress", facts.artifacts.get("candidate")),
        "compression": ("compress", facts.compression),
        "evaluation": ("evaluate", facts.evaluation),
    }
    for name, (stage, record) in made.items():
        if record is None or not (changed := changed_params(stage, record.params_digests, facts.params)):
            continue
        signed = bool(record.params_digests)
        yield Check(
            rule=f"record {name}",
            metric=name,
            status="error",
            reason="stale",
            message=f"made with another {' and '.join(changed)} than params.yaml has now"
            if signed
            else "does not say with which params it was made, as records of older versions do not",
            mending=MENDING["stale"] if signed else UNSIGNED,
        )
