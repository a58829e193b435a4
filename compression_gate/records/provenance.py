"""What of the params each stage reads: DVC runs it again where that changed, and its record says what it was."""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from types import MappingProxyType
from typing import Any

from compression_gate.records.base import digest_of
from compression_gate.records.params import Params

# Stage -> sections of params.yaml, or single values of one.
READ_BY: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "prepare": ("task", "prepare", "train.seed"),
        "train": ("task", "train", "compress.runtime", "compress.format"),
        "compress": ("task", "train", "compress"),
        "evaluate": ("task", "train.seed", "compress.runtime", "evaluate"),
        "benchmark": ("task", "train.seed", "compress.runtime", "benchmark"),
        "gate": ("task", "prepare", "train", "compress", "evaluate", "benchmark", "gate"),
    }
)


def params_digests(stage: str, params: Params) -> dict[str, str]:
    """A digest of everything that a stage reads of the params, by its key path."""
    plain = params.as_dict()
    return {path: digest_of(value_at(plain, path)) for path in READ_BY[stage]}


def value_at(plain: Mapping[str, Any], path: str) -> Any:
    """The value under a dotted key path."""
    return reduce(lambda values, key: values[key], path.split("."), plain)


def changed_params(stage: str, recorded: Mapping[str, str], params: Params) -> list[str]:
    """Key paths of what a stage reads that are not as its record has them; all of them where it has none."""
    return [path for path, digest in params_digests(stage, params).items() if recorded.get(path) != digest]
