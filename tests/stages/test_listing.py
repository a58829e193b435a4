"""`list` names all that params may name."""

import pytest

from compression_gate.errors import ParamsError
from compression_gate.methods import METHODS
from compression_gate.records.metric_table import METRICS
from compression_gate.records.perturbation_table import PERTURBATIONS
from compression_gate.records.rules import LIMIT_NAMES
from compression_gate.runtimes import RUNTIMES
from compression_gate.stages import listing
from compression_gate.tasks.augment import AUGMENTATIONS

TABLES = {
    "methods": METHODS,
    "metrics": METRICS,
    "rules": LIMIT_NAMES,
    "runtimes": RUNTIMES,
    "augmentations": AUGMENTATIONS,
    "perturbations": PERTURBATIONS,
}


@pytest.mark.parametrize("kind", listing.KINDS)
def test_every_row_has_a_name_and_a_summary(kind):
    rows = listing.rows_of(kind)
    assert rows
    assert all(row["name"] and row["summary"] for row in rows)
    assert all(row.keys() == {"name", "summary", "options"} for row in rows)


@pytest.mark.parametrize("kind", TABLES)
def test_every_name_of_the_table_is_listed(kind):
    assert [row["name"] for row in listing.rows_of(kind)] == list(TABLES[kind])


def test_methods_show_their_options_with_defaults():
    rows = {row["name"]: row["options"] for row in listing.rows_of("methods")}
    assert "bits=8" in rows["static_quantization"]
    assert "pruning_ratio" in rows["structured_pruning"]


def test_unknown_kind_is_told_with_the_nearest():
    with pytest.raises(ParamsError, match=r"list: expected one of .*, got 'method' \(did you mean 'methods'\?\)"):
        listing.rows_of("method")
