"""Weight-only quantization: which layers hold integers, what is left and why, and that answers stay close."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compression_gate.errors import CompressionError, ParamsError
from compression_gate.methods.base import Context
from compression_gate.methods.weight_only_quantization import WeightOnlyQuantization
from compression_gate.modules.quantized_layer import QuantizedLayer
from compression_gate.modules.saved_model import load_model, save_model
from compression_gate.modules.surgery import state_digest
from compression_gate.records.params import TrainParams

COVERED = {  # kind of model, layers that hold integers, layers named as left
    "mlp": (3, ()),
    "lenet": (4, ()),
    "resnet": (7, ("norm",)),
    "mobilenet": (8, ("stem.1",)),
    "tokens": (3, ()),
    "transformer": (14, ("encoder.layers.0.norm1", "encoder.layers.1.norm2")),
    "recurrent": (4, ()),
    "gru": (2, ()),
    "bidirectional": (2, ("norm",)),
    "tied": (5, ()),
}


def applied(model, **options):
    context = Context(task=None, reference=model, train=TrainParams())  # it reads no data
    return WeightOnlyQuantization(**options).apply(model, context), context.notes


@pytest.mark.parametrize("kind", COVERED)
@pytest.mark.parametrize("options", [{}, {"bits": 4, "granularity": "per_group", "group_size": 5, "symmetric": False}])
def test_every_kind_of_model_keeps_its_answers_and_is_saved_exactly(tiny, tmp_path, kind, options):
    suite = tiny(kind)
    before = state_digest(suite.reference)
    context = suite.context()
    made = WeightOnlyQuantization(**options).apply(suite.reference, context)
    count, left = COVERED[kind]
    assert len(context.notes.covered) == count
    assert set(left) <= set(context.notes.uncovered)
    assert state_digest(suite.reference) == before
    assert suite.accuracy(made) >= suite.accuracy(suite.reference) - 0.05
    save_model(made, suite.factory, tmp_path)
    assert torch.equal(suite.outputs(load_model(suite.factory, tmp_path)), suite.outputs(made))


@torch.no_grad()
def test_more_bits_and_finer_groups_come_closer(tiny):
    suite = tiny("recurrent")
    expected = suite.outputs(suite.reference)

    def error(**options):
        return float((suite.outputs(suite.apply(WeightOnlyQuantization(**options))) - expected).norm())

    errors = [error(bits=bits) for bits in (8, 4, 3, 2)]
    assert errors == sorted(errors)
    assert error(bits=3, granularity="per_group", group_size=4) < error(bits=3, granularity="per_tensor")


def test_biases_stay_as_they_were(tiny):
    suite = tiny("bidirectional")
    made = suite.apply(WeightOnlyQuantization(bits=2))
    for name, value in suite.reference.named_parameters():
        if "bias" in name:
            assert torch.equal(made.state_dict()[name], value)


def test_ignored_layers_stay_in_float_and_are_named():
    made, notes = applied(nn.Sequential(nn.Linear(3, 3), nn.Sequential(nn.Linear(3, 3))), ignore=("1",))
    assert isinstance(made[0], QuantizedLayer)
    assert type(made[1][0]) is nn.Linear
    assert notes.uncovered == {"1": "ignored"}
    with pytest.raises(ParamsError, match=r"ignore: expected one of .*'head'"):
        applied(nn.Sequential(nn.Linear(3, 3)), ignore=("head",))


LEFT = {
    "norm limit": (nn.Embedding(4, 3, max_norm=1.0), "max_norm"),
    "projection": (nn.LSTM(3, 4, proj_size=2), "projected hidden state"),
    "padding": (nn.Conv1d(2, 2, 3, padding=1, padding_mode="circular"), "padding with circular"),
    "half": (nn.Linear(2, 2).half(), "float16"),
    "own type": (nn.Bilinear(2, 2, 2), "Bilinear: no integer form"),
    "plain recurrence": (nn.RNN(3, 4), "RNN: no integer form"),
    "made from a known one": (
        type("Scaled", (nn.Linear,), {})(2, 2),
        "Scaled: no integer form: expected Linear itself",
    ),
    "attention": (nn.MultiheadAttention(4, 2, add_bias_kv=True), "MultiheadAttention reads its weights directly"),
}


@pytest.mark.parametrize("case", LEFT)
def test_what_has_no_integer_form_is_left_with_its_reason(case):
    layer, reason = LEFT[case]
    made, notes = applied(nn.ModuleList([layer, nn.Linear(2, 2)]))
    assert type(made[0]) is type(layer)
    assert reason in notes.uncovered["0"]
    with pytest.raises(CompressionError, match=f"none that can be treated in Sequential: 0: .*{reason}"):
        applied(nn.Sequential(layer))


def test_weights_that_are_not_finite_are_refused_by_layer():
    layer = nn.Linear(2, 2)
    layer.weight.data[0, 0] = float("nan")
    with pytest.raises(CompressionError, match="weight_only_quantization: 0: expected finite weights, got NaN"):
        applied(nn.Sequential(layer))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bits": 1}, "bits: expected a whole number from 2 to 8, got 1"),
        ({"granularity": "per_group"}, "group_size: expected 1 or more"),
        ({"group_size": 8}, "group_size: expected none for per_channel, got 8"),
        ({"calibration": "percentile"}, "calibration: expected one of minmax, mse, got 'percentile'"),
    ],
)
def test_a_bad_option_is_named(options, message):
    with pytest.raises(ParamsError, match=message):
        WeightOnlyQuantization(**options)
