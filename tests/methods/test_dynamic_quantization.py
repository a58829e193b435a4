"""Dynamic quantization: linear layers and LSTMs compute on integers whose ranges are those of each call."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import nn

from compression_gate.errors import CompressionError, ParamsError
from compression_gate.methods.base import Context
from compression_gate.methods.dynamic_quantization import DynamicQuantization
from compression_gate.modules.quantized_recurrent import QuantizedLSTM
from compression_gate.modules.saved_model import load_model, save_model
from compression_gate.records.params import TrainParams


def applied(model, **options):
    context = Context(task=None, reference=model, train=TrainParams())  # it reads no data
    return DynamicQuantization(**options).apply(model, context), context.notes


@pytest.mark.parametrize("kind", ["mlp", "tokens", "transformer", "recurrent", "bidirectional", "tied", "gru"])
def test_answers_stay_close_and_are_saved_exactly(tiny, tmp_path, kind):
    suite = tiny(kind)
    made = suite.apply(DynamicQuantization())
    assert suite.accuracy(made) >= suite.accuracy(suite.reference) - 0.05
    save_model(made, suite.factory, tmp_path)
    assert torch.equal(suite.outputs(load_model(suite.factory, tmp_path)), suite.outputs(made))


@torch.no_grad()
def test_a_larger_input_is_rounded_as_finely():
    layer = nn.Linear(8, 8)
    made, _ = applied(nn.Sequential(layer))
    inputs = torch.randn(16, 8)
    for size in (1e-3, 1.0, 1e3):
        expected = layer(inputs * size)
        assert (made(inputs * size) - expected).norm() < 0.02 * expected.norm()
    assert torch.isfinite(made(torch.zeros(2, 8))).all()


def test_an_lstm_is_covered_and_what_is_not_says_what_could():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.conv, self.gru = nn.Embedding(4, 3), nn.Conv1d(3, 3, 1), nn.GRU(3, 3)
            self.lstm, self.head = nn.LSTM(3, 3), nn.Linear(3, 2)

    made, notes = applied(Mixed())
    assert notes.covered == ["lstm", "head"]
    assert isinstance(made.lstm, QuantizedLSTM)
    assert set(notes.uncovered) == {"table", "conv", "gru"}
    assert notes.uncovered["gru"] == (
        "GRU: its inputs have no integer form here (onnxruntime has an LSTM on integers and no GRU): "
        "weight_only_quantization can treat it"
    )
    assert all("weight_only_quantization can treat it" in reason for reason in notes.uncovered.values())


def test_a_model_of_other_layers_is_refused():
    with pytest.raises(CompressionError, match=r"expected linear layers or LSTMs, got none .* GRU.*LSTM on integers"):
        applied(nn.Sequential(nn.GRU(3, 3)))


def test_a_transformer_that_nests_its_tensors_is_named():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    layer.self_attn = nn.MultiheadAttention(8, 2, add_zero_attn=True, batch_first=True)
    _, notes = applied(nn.Sequential(nn.TransformerEncoder(layer, 1), nn.Linear(8, 2)))
    assert "enable_nested_tensor=False" in notes.uncovered["0"]
    _, notes = applied(nn.Sequential(nn.TransformerEncoder(layer, 1, enable_nested_tensor=False), nn.Linear(8, 2)))
    assert notes.covered == ["0.layers.0.linear1", "0.layers.0.linear2", "1"]
    assert "MultiheadAttention" in notes.uncovered["0.layers.0.self_attn"]


@torch.no_grad()
def test_a_masked_transformer_computes_on_integers_in_all_its_layers():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
            self.encoder = nn.TransformerEncoder(layer, 2)

        def forward(self, inputs, mask):
            return self.encoder(inputs, src_key_padding_mask=mask)[:, 0]

    torch.manual_seed(0)
    model, inputs = Masked().eval(), torch.randn(3, 5, 8)
    mask = torch.arange(5)[None] >= torch.tensor([[4], [5], [2]])
    with warnings.catch_warnings(action="ignore"):  # torch's own, about nested tensors
        expected = model(inputs, mask)
    made, notes = applied(model)
    assert len(notes.covered) == 12
    error = float((made(inputs, mask) - expected).norm() / expected.norm())
    assert 1e-5 < error < 0.03


def test_groups_are_refused():
    with pytest.raises(ParamsError, match=r"^granularity: expected one of per_tensor, per_channel, got 'per_group'"):
        DynamicQuantization(granularity="per_group")
