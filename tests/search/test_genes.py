"""Genes as they are declared, and the values they take."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compression_gate.errors import ParamsError
from compression_gate.search.genes import ByLayer, Choice, Number, filled, gene_of, genes_in, grouped

DECLARED = {
    "a list": ([2, 4, 8], Choice(values=(2, 4, 8))),
    "a range": ({"low": 0.1, "high": 0.9}, Number(low=0.1, high=0.9)),
    "whole numbers": ({"low": 1, "high": 5}, Number(low=1, high=5)),
    "steps": ({"low": 0.0, "high": 1.0, "step": 0.25}, Number(low=0.0, high=1.0, step=0.25)),
    "ratios": ({"low": 0.01, "high": 1.0, "log": True}, Number(low=0.01, high=1.0, log=True)),
    "by layer": ({"by_layer": [0, 4, 8]}, ByLayer(gene=Choice(values=(0, 4, 8)))),
    "by group": (
        {"by_group": {"low": 0.0, "high": 0.9}, "groups": 3},
        ByLayer(gene=Number(low=0.0, high=0.9), groups=3),
    ),
    "no choice": (0.5, None),
    "a mapping that is a value": ({"model": "a:Net"}, None),
}
BAD = {
    "nothing to choose from": ([], "at least one value"),
    "no upper end": ({"low": 0.1}, r"x\.high: expected a number, got None"),
    "the wrong way round": ({"low": 0.9, "high": 0.1}, "low under high"),
    "a word for an end": ({"low": "little", "high": 1}, "expected a number, got 'little'"),
    "a flag for an end": ({"low": True, "high": 2}, "expected a number, got True"),
    "ratios from zero": ({"low": 0, "high": 1, "log": True}, "a low end over 0"),
    "ratios with a step": ({"low": 1, "high": 8, "step": 2, "log": True}, "no step"),
    "a step of nothing": ({"low": 0, "high": 1, "step": 0}, r"x\.step: expected a number, got 0"),
    "no groups": ({"by_group": [1, 2]}, r"groups: expected a whole number of 1 or more, got None"),
    "layers of no choice": ({"by_layer": 3}, "expected a list or a range, got 3"),
}


@pytest.mark.parametrize(("declared", "gene"), DECLARED.values(), ids=DECLARED)
def test_a_declaration_is_read(declared, gene):
    assert gene_of(declared, "x") == gene


@pytest.mark.parametrize(("declared", "message"), BAD.values(), ids=BAD)
def test_a_wrong_declaration_is_refused(declared, message):
    with pytest.raises(ParamsError, match=message):
        gene_of(declared, "x")


@given(
    st.floats(0, 1, exclude_max=True),
    st.sampled_from([gene for _, gene in DECLARED.values() if isinstance(gene, Number)]),
)
def test_values_of_a_range_lie_in_it_and_are_their_own_nearest(place, gene):
    value = gene.at(place)
    assert gene.low <= value <= gene.high
    assert isinstance(value, int) == gene.whole
    assert gene.nearest(value) == pytest.approx(value)


NEAREST = [  # a range, a number, the value nearest to it
    (Number(low=1, high=4, step=2), 4, 3),
    (Number(low=1, high=4, step=2), 0, 1),
    (Number(low=0.1, high=0.7, step=0.1), 0.3, 0.3),
    (Number(low=0.1, high=0.7, step=0.1), 9.0, 0.7),
    (Number(low=1, high=8, log=True), 2.6, 3),
    (Number(low=0.1, high=0.9), 0.35, 0.35),
]


@pytest.mark.parametrize(("gene", "number", "nearest"), NEAREST)
def test_the_nearest_of_a_range_is_a_value_that_it_has(gene, number, nearest):
    assert gene.nearest(number) == nearest


def test_every_value_has_its_share_of_places():
    for gene, values in ((Choice(values="abc"), ["a", "b", "c"]), (Number(low=1, high=3), [1, 2, 3])):
        assert [gene.at(place / 300) for place in range(300)] == [value for value in values for _ in range(100)]


def test_ratios_are_evenly_spread():
    gene = Number(low=0.01, high=1.0, log=True)
    assert [gene.at(place) for place in (0.0, 0.5, 0.999999)] == pytest.approx([0.01, 0.1, 1.0], rel=1e-4)


def test_genes_inside_mappings_are_found_and_filled():
    options = {"student": {"model": ["a:Net", "b:Net"], "model_args": {"width": {"low": 8, "high": 32}}}, "epochs": 2}
    genes = dict(genes_in(options, "x"))
    assert set(genes) == {"student.model", "student.model_args.width"}
    values = {"student.model": "b:Net", "student.model_args.width": 16}
    assert filled(options, values) == {"student": {"model": "b:Net", "model_args": {"width": 16}}, "epochs": 2}


def test_a_list_that_is_a_value_is_said_so():
    options = {"ignore": {"value": ["conv", "out"]}}
    assert dict(genes_in(options, "x")) == {}
    assert filled(options, {}) == {"ignore": ["conv", "out"]}


@pytest.mark.parametrize("groups", [None, 1, 2, 3, 5, 9])
def test_groups_hold_every_layer_once_in_order(groups):
    layers = list("abcde")
    parts = grouped(layers, groups)
    assert [layer for part in parts for layer in part] == layers
    assert len(parts) == min(groups or 5, 5)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
