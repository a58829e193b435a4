"""Budgets: the total is met, no layer is treated twice, and what bears more gets more."""

from __future__ import annotations

import pytest
from torch import nn

from compression_gate.codec.coded_size import coded_bytes
from compression_gate.errors import CompressionError, ParamsError
from compression_gate.methods import budgets
from compression_gate.methods.base import Context
from compression_gate.methods.budgets import BITS, TIE, losses_of
from compression_gate.methods.chain import method_of
from compression_gate.modules.quantized_layer import QuantizedLayer
from compression_gate.modules.surgery import state_digest, weights
from compression_gate.records.params import Step, TrainParams
from compression_gate.records.sensitivity import Sensitivity

KINDS = ("mlp", "lenet", "resnet", "mobilenet", "tokens", "transformer", "recurrent", "gru", "bidirectional", "tied")
QUANTIZATIONS = ("weight_only_quantization", "static_quantization")


def pruned(**options):
    return method_of(Step(method="magnitude_pruning", **options))


def zeros(found):
    return sum(int((weight == 0).sum()) for weight in found.values()) / sum(weight.numel() for weight in found.values())


def treated(model, context):
    return {name: weight for name, weight in weights(model).items() if name in context.notes.covered}


@pytest.mark.parametrize("kind", KINDS)
def test_pruning_reaches_the_total_or_stays_just_under_it(tiny, kind):
    suite = tiny(kind)
    context = suite.context()
    model = pruned(budget=0.8).apply(suite.reference, context)
    found = treated(model, context)
    total = sum(weight.numel() for weight in found.values())
    assert 0.8 - (1 + len(found)) / total <= zeros(found) <= 0.8
    assert state_digest(suite.apply(pruned(budget=0.8))) == state_digest(model)


def test_pruning_is_spread_by_the_table_which_is_noted(tiny):
    suite = tiny("lenet")
    context = suite.context()
    model = pruned(budget=0.7).apply(suite.reference, context)
    shares = {name: zeros({name: weight}) for name, weight in treated(model, context).items()}
    assert max(shares.values()) - min(shares.values()) > 0.1
    (table,) = context.notes.sensitivity
    assert (table.metric, table.n) == ("accuracy", len(suite.task.split("validation")))
    assert any(remark.startswith("budget 0.7: ") for remark in context.notes.remarks)


def test_zeros_that_are_there_count(tiny):
    suite = tiny("lenet")
    first = suite.apply(pruned(sparsity=0.6))
    before = {name: weight == 0 for name, weight in weights(first).items()}
    context = suite.context()
    second = pruned(budget=0.75).apply(first, context)
    assert zeros(treated(second, context)) == pytest.approx(0.75, abs=0.01)
    assert all(bool((weight == 0)[before[name]].all()) for name, weight in weights(second).items())


def test_a_gradual_schedule_ends_at_each_layer_s_own_share(tiny):
    suite = tiny("lenet")
    one_shot, gradual = suite.context(), suite.context()
    at_once = pruned(budget=0.7).apply(suite.reference, one_shot)
    slowly = pruned(budget=0.7, schedule="gradual", epochs=1).apply(suite.reference, gradual)
    assert one_shot.notes.remarks == gradual.notes.remarks
    for name, weight in weights(slowly).items():
        assert zeros({name: weight}) == pytest.approx(zeros({name: weights(at_once)[name]}), abs=0.01)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_bits_stay_in_the_mean_that_was_asked_for(tiny, name, kind):
    suite = tiny(kind)
    context = suite.context()
    model = method_of(Step(method=name, budget=4.5)).apply(suite.reference, context)
    layers = [layer for layer in model.modules() if isinstance(layer, QuantizedLayer)]
    assert {layer.bits for layer in layers} <= set(BITS)
    sizes = [sum(getattr(layer, f"{one}_integers").numel() for one in layer.weight_names) for layer in layers]
    mean = sum(layer.bits * size for layer, size in zip(layers, sizes, strict=True)) / sum(sizes)
    assert mean <= 4.5 * (1 + 1e-6)
    assert mean > 3  # as many as fit, where one more bit for a layer fits
    assert len(context.notes.sensitivity) == 1


@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_a_budget_that_all_layers_can_have_gives_all_of_it(tiny, name):
    suite = tiny("lenet")
    whole = suite.apply(method_of(Step(method=name, budget=8)))
    assert {layer.bits for layer in whole.modules() if isinstance(layer, QuantizedLayer)} == {8}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_a_budget_of_bytes_is_what_the_coder_makes_of_the_whole_model(tiny, name, kind):
    suite = tiny(kind)
    sizes = [coded_bytes(suite.apply(method_of(Step(method=name, bits=bits)))) for bits in (3, 6)]
    limit = sum(sizes) // 2
    context = suite.context()
    model = method_of(Step(method=name, budget_bytes=limit)).apply(suite.reference, context)
    assert 0.9 * limit < coded_bytes(model) <= 1.01 * limit
    assert any(remark.startswith(f"budget_bytes {limit:,}: ") for remark in context.notes.remarks)


@pytest.mark.parametrize("kind", KINDS)
def test_zeros_are_spread_by_the_bytes_that_they_save(tiny, kind):
    suite = tiny(kind)
    limit = int(0.5 * coded_bytes(suite.reference))
    context = suite.context()
    model = pruned(budget_bytes=limit).apply(suite.reference, context)
    assert 0.95 * limit < coded_bytes(model) <= 1.01 * limit
    assert len(context.notes.sensitivity) == 1


@pytest.mark.parametrize("name", ["magnitude_pruning", *QUANTIZATIONS])
def test_bytes_that_no_spread_gets_down_to_are_told(tiny, name):
    suite = tiny("lenet")
    with pytest.raises(CompressionError, match=rf"{name}: budget_bytes: expected [\d,]+ or more, .*got 12"):
        suite.apply(method_of(Step(method=name, budget_bytes=12)))


WIDE = [  # budget, bits of a layer with nearly all weights, of a small one: never two bits for the wide one at three
    (3, 3, 3),
    (3.1, 3, 8),
    (5, 5, 5),
    (2.9, 2, 8),
]


@pytest.mark.parametrize(("budget", "wide", "narrow"), WIDE)
def test_a_layer_with_nearly_all_weights_gets_the_whole_bits_under_the_mean(monkeypatch, budget, wide, narrow):
    model = nn.Sequential(nn.Linear(100, 100), nn.Linear(100, 1))
    row = Sensitivity(layer="0", members=("0",), method="m", option="bits", strength=2, outputs_moved=0.0)
    cells = {
        name: [
            row.model_copy(update={"members": (name,), "strength": bits, "loss_rise": worth / 4**bits})
            for bits in budgets.BITS
        ]
        for name, worth in (("0", 10.0), ("1", 1.0))
    }
    monkeypatch.setattr(budgets, "measured", lambda *arguments, coded: cells)
    method = method_of(Step(method="weight_only_quantization", budget=budget))
    context = Context(task=None, reference=model, train=TrainParams())
    assert budgets.bits_by_layer(method, model, context) == {"0": wide, "1": narrow}


def test_what_is_ignored_stays_and_is_no_part_of_the_total(tiny):
    suite = tiny("lenet")
    names = [name.rpartition(".")[0] for name in weights(suite.reference)]
    context = suite.context()
    model = pruned(budget=0.8, ignore=names[:1]).apply(suite.reference, context)
    assert zeros({"": weights(model)[f"{names[0]}.weight"]}) == 0
    assert zeros(treated(model, context)) == pytest.approx(0.8, abs=0.01)


BAD = [
    ({"budget": 1.0}, r"^budget: expected more than 0 and less than 1, got 1.0"),
    ({"budget": 0.5, "sparsity": 0.5}, r"^sparsity: expected exactly one of .*got sparsity and budget"),
    ({"budget": 0.5, "scope": "global"}, r"^scope: a budget says .*expected local, got 'global'"),
]


@pytest.mark.parametrize(("options", "text"), BAD)
def test_a_budget_of_zeros_that_cannot_be_is_told(options, text):
    with pytest.raises(ParamsError, match=text):
        pruned(**options)


@pytest.mark.parametrize("name", QUANTIZATIONS)
def test_a_budget_of_bits_that_cannot_be_is_told(name):
    with pytest.raises(ParamsError, match=r"^budget: expected 2 or more and at most 8, got 1.5"):
        method_of(Step(method=name, budget=1.5))
    for budget in ({"budget": 4}, {"budget_bytes": 4000}):
        with pytest.raises(ParamsError, match=r"^bits: expected none beside a budget, got 4"):
            method_of(Step(method=name, bits=4, **budget))
    with pytest.raises(ParamsError, match=r"^budget_bytes: expected none beside a budget of bits"):
        method_of(Step(method=name, budget=4, budget_bytes=4000))


def test_more_zeros_than_the_layers_were_asked_about_are_refused(tiny):
    suite = tiny("mlp")
    with pytest.raises(CompressionError, match=r"magnitude_pruning: budget: expected at most 0\.98\d?.*got 0\.995"):
        suite.apply(pruned(budget=0.995))


def test_a_gain_counts_as_no_loss_and_outputs_decide_where_losses_do_not():
    row = Sensitivity(layer="a", members=("a",), method="m", option="bits", strength=2)
    figures = [(0.3, 0.4), (-0.1, 0.2), (0.1, 0.1), (None, None)]
    rows = [row.model_copy(update={"loss_rise": loss, "outputs_moved": moved}) for loss, moved in figures]
    assert losses_of(rows[:3], rising=False) == pytest.approx([0.3 + 0.4 * TIE, 0.2 * TIE, 0.1 * TIE])
    assert losses_of(rows[1:], rising=True) == pytest.approx([0.2 * TIE, 0.1 + 0.2 * TIE, 0.1 + 0.2 * TIE])
