"""Static quantization: which layers become integers, which are named as left, and how ranges are found."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compression_gate.errors import CompressionError, ParamsError
from compression_gate.methods.base import Context
from compression_gate.methods.calibration import Values
from compression_gate.methods.static_quantization import StaticQuantization
from compression_gate.modules.quantized import QuantizedConv2d
from compression_gate.modules.quantized_layer import QuantizedLayer
from compression_gate.records.params import TrainParams
from compression_gate.tasks.task import Batch


class Calibration:
    """A task that has calibration data and nothing else: any other split is refused."""

    def __init__(self, inputs):
        self.inputs = inputs

    def batches(self, split, batch_size):
        assert split == "calibration"
        for part in self.inputs.split(batch_size):
            yield Batch(inputs=part, targets=torch.zeros(len(part)), positions=torch.arange(len(part)))


def applied(model, inputs, **options):
    context = Context(task=Calibration(inputs), reference=model, train=TrainParams())
    return StaticQuantization(**options).apply(model.eval(), context), context.notes


def images():
    return torch.randn(200, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def small():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


@pytest.mark.parametrize("calibration", ["minmax", "percentile", "entropy", "mse"])
@pytest.mark.parametrize("granularity", ["per_channel", "per_tensor"])
@torch.no_grad()
def test_eight_bits_hardly_change_the_answers(calibration, granularity):
    model = small()
    made, notes = applied(model, images(), calibration=calibration, granularity=granularity)
    expected = model(images())
    assert (made(images()) - expected).norm() < 0.03 * expected.norm()
    assert notes.covered == ["0", "3"]
    assert not notes.uncovered


@torch.no_grad()
def test_mse_beats_minmax_at_few_bits():
    model, errors = small(), {}
    for calibration in ("minmax", "mse"):
        made, _ = applied(model, images(), calibration=calibration, bits=3)
        errors[calibration] = float((made(images()) - model(images())).norm())
    assert errors["mse"] < errors["minmax"]


@torch.no_grad()
def test_an_outlier_is_cut_by_percentile_and_kept_by_minmax():
    values, inputs = Values(), torch.linspace(-1, 1, 100_000)
    inputs[0] = 1000.0
    values.bounds(inputs)
    values.bins(inputs)
    assert values.high == 1000.0
    low, high = values.percentile(99.9)
    assert high < 2
    assert low >= -1.1


def seen(values):
    found = Values()
    found.bounds(values)
    found.bins(values)
    return found


RANGES = [  # what passed, share of its bound that entropy and mse may keep for 8 bits, for 4 bits
    ("uniform", lambda random: torch.rand(100_000, generator=random), (0.95, 1.0), (0.9, 1.0)),
    ("rectified", lambda random: torch.randn(100_000, generator=random).relu(), (0.6, 1.0), (0.4, 0.95)),
    ("outliers", lambda random: torch.randn(100_000, generator=random) ** 5, (0.1, 0.95), (0.1, 0.5)),
]


@pytest.mark.parametrize("calibration", ["entropy", "mse"])
@pytest.mark.parametrize(("name", "make", "eight", "four"), RANGES)
def test_ranges_keep_what_is_common_and_cut_what_is_rare(calibration, name, make, eight, four):
    values = make(torch.Generator().manual_seed(0))
    shares = []
    for bits, (least, most) in ((8, eight), (4, four)):
        _, high = seen(values).range_of(calibration, 100, bits)
        shares.append(high / float(values.max()))
        assert least <= shares[-1] <= most, (name, bits)
    assert shares[1] <= shares[0], "fewer levels, a narrower range"


@torch.no_grad()
def test_a_normalisation_behind_a_convolution_is_folded_exactly():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.last = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Linear(144, 2)

        def forward(self, inputs):
            return self.last(torch.relu(self.norm(self.conv(inputs))).flatten(1))

    torch.manual_seed(0)
    model = Named()
    model.norm(torch.randn(9, 4, 5, 5) * 3 + 1)
    made, _ = applied(model, images())
    assert isinstance(made.conv, QuantizedConv2d)
    assert isinstance(made.norm, nn.Identity)
    assert (made(images()) - model(images())).norm() < 0.03 * model(images()).norm()


@torch.no_grad()
def test_a_normalisation_behind_an_activation_stays():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.BatchNorm2d(4))
    made, notes = applied(model, images())
    assert isinstance(made[2], nn.BatchNorm2d)
    assert "2" in notes.uncovered


def test_what_stays_in_float_is_named_with_the_reason():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.recurrent = nn.LSTM(8, 6, batch_first=True)
            self.attention = nn.MultiheadAttention(6, 2, batch_first=True, add_zero_attn=True)
            self.last, self.unused = nn.Linear(6, 2), nn.Linear(6, 2)

        def forward(self, inputs):
            values, _ = self.recurrent(inputs[:, 0])
            values, _ = self.attention(values, values, values)
            return self.last(values[:, -1])

    made, notes = applied(Mixed(), images())
    assert notes.covered == ["last"]
    assert set(notes.uncovered) == {"recurrent", "attention", "unused"}
    assert "LSTM" in notes.uncovered["recurrent"]
    assert "never called" in notes.uncovered["unused"]
    assert made(images()).shape == (200, 2)


def test_a_layer_under_two_names_becomes_one_integer_layer():
    shared = nn.Linear(8, 8)
    made, _ = applied(nn.Sequential(shared, nn.ReLU(), shared), torch.randn(64, 8))
    assert made[0] is made[2]
    assert isinstance(made[0], QuantizedLayer)


def test_a_model_without_a_treatable_layer_is_refused():
    with pytest.raises(CompressionError, match="none that can be treated in Sequential: 0: GRU"):
        applied(nn.Sequential(nn.GRU(8, 8)), torch.randn(64, 8))


def test_activations_that_are_not_finite_are_refused_by_layer():
    model = small()
    model[0].weight.data.fill_(float("nan"))
    with pytest.raises(CompressionError, match="0: expected finite activations"):
        applied(model, images())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        *[("bits", 1), ("bits", 9), ("bits", 4.5), ("granularity", "per_row"), ("calibration", "kl")],
        *[("symmetric", "no"), ("percentile", 10), ("activation_bits", 1)],
    ],
)
def test_a_bad_option_is_named(option, value):
    with pytest.raises(ParamsError, match=f"{option}: expected .*{value}"):
        StaticQuantization(**{option: value})
