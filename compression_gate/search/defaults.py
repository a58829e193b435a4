"""The space that is searched where the params declare none: what suits the model's layers, its runtime and its file."""

from __future__ import annotations

from typing import Any

from compression_gate.methods.ladder import Facts

Slots = list[dict[str, Any]]


def default_slots(facts: Facts, file_format: str, *, norms: bool) -> Slots:
    """The slots, each optional, in an order that makes sense.

    Args:
        facts: layer types, and what runtime and file can hold.
        norms: whether there are batch norms to fold.
    """
    prune = {
        "method": "structured_pruning",
        "pruning_ratio": {"low": 0.05, "high": 0.85},
        "importance": ["l2", "taylor", "activation"],
    }
    distil = {
        "method": "distillation",
        "epochs": [1, 2],
        "alpha": {"low": 0.0, "high": 0.9},
        "temperature": {"low": 1.0, "high": 8.0},
    }
    slots: Slots = [
        {**prune, "optional": True},
        {"method": "low_rank", "ratio": {"low": 0.15, "high": 0.8}, "optional": True},
        {**distil, "optional": True},
    ]
    if norms:
        slots.append({"method": "batchnorm_folding", "optional": True})
    return [*slots, {"any_of": last_steps(facts, file_format), "optional": True}]


def last_steps(facts: Facts, file_format: str) -> list[dict[str, Any]]:
    """How weights may be held in the end."""
    found: list[dict[str, Any]] = []
    if facts.rounded and facts.integers:
        calibrations = ["minmax", "percentile", "mse", "entropy"]
        found.append({"method": "static_quantization", "bits": 8, "calibration": calibrations})
        bits = [8, 4] if facts.packed else 8
        trained = {"bits": bits, "epochs": [1, 2], "distill": [True, False]}
        found.append({"method": "quantization_aware_training", **trained})
    found.append({"method": "weight_only_quantization", "bits": [8, 4, 3, 2] if facts.packed else 8})
    if file_format == "coded":
        found.append(
            {
                "method": "rate_aware_training",
                "strength": {"low": 0.05, "high": 2.0, "log": True},
                "epochs": [1, 2, 3],
            }
        )
        found.append({"method": "weight_sharing", "bits": [2, 3, 4, 5]})
    return found
