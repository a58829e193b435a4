"""Attention in its own form: the same answers as torch's, and files of every runtime."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from compression_gate import registry
from compression_gate.modules.attention import HeadAttention
from compression_gate.modules.opened import open_attention
from compression_gate.runtimes import RUNTIMES

FORMS = [
    {},
    {"batch_first": True},
    {"bias": False},
    {"kdim": 6, "vdim": 10},
    {"batch_first": True, "kdim": 8, "vdim": 12},
]


def own(layer):
    """Return torch's layer in its own form, with nothing removed."""
    apart = open_attention(layer)
    settled = HeadAttention(**apart.constructor_arguments())
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        setattr(settled, name, getattr(apart, name))
    return settled.eval()


def inputs_of(layer):
    torch.manual_seed(1)
    shapes = ((3, 5, 8), (3, 7, layer.kdim), (3, 7, layer.vdim))
    parts = [torch.randn(shape) for shape in shapes]
    return parts if layer.batch_first else [part.transpose(0, 1) for part in parts]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("need_weights", [True, False])
def test_with_all_heads_it_answers_as_torchs(form, need_weights):
    layer = nn.MultiheadAttention(8, 4, **form).eval()
    inputs = inputs_of(layer)
    expected, wanted = layer(*inputs, need_weights=need_weights)
    got, weights = own(layer)(*inputs, need_weights=need_weights)
    torch.testing.assert_close(got, expected)
    assert (weights is None) == (wanted is None) == (not need_weights)
    if need_weights:
        torch.testing.assert_close(weights, wanted)


padding = torch.tensor([[False] * 7, [False] * 5 + [True] * 2, [False] * 4 + [True] * 3])
MASKS = {
    "padding": {"key_padding_mask": padding},
    "forbidden": {"attn_mask": torch.ones(5, 7).triu(2).bool()},
    "added": {"attn_mask": torch.linspace(-2, 2, 35).view(5, 7)},
    "of each head": {"attn_mask": torch.linspace(-2, 2, 420).view(12, 5, 7)},
    "both": {"key_padding_mask": padding, "attn_mask": torch.ones(5, 7).triu(3).bool()},
    "each head's weights": {"average_attn_weights": False},
}


@pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")
@pytest.mark.parametrize("mask", MASKS)
def test_masks_mean_what_they_mean_to_torch(mask):
    layer = nn.MultiheadAttention(8, 4, batch_first=True).eval()
    inputs = inputs_of(layer)
    for got, expected in zip(own(layer)(*inputs, **MASKS[mask]), layer(*inputs, **MASKS[mask]), strict=True):
        torch.testing.assert_close(got, expected)


def test_a_single_example_needs_no_batch_axis():
    layer = nn.MultiheadAttention(8, 4).eval()
    query, memory = torch.randn(5, 8), torch.randn(7, 8)
    for got, expected in zip(own(layer)(query, memory, memory), layer(query, memory, memory), strict=True):
        torch.testing.assert_close(got, expected)


def test_dropout_works_while_training_only():
    layer = own(nn.MultiheadAttention(8, 4, dropout=0.5, batch_first=True))
    query = torch.randn(2, 5, 8)
    same = layer(query, query, query)[0]
    assert torch.equal(layer(query, query, query)[0], same)
    assert not torch.allclose(layer.train()(query, query, query)[0], same)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_it_takes_its_place_in_an_encoder_that_would_compute_past_it():
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 4, 16, batch_first=True), 2).eval()
    inputs = torch.randn(3, 7, 8)
    with torch.no_grad():
        expected = encoder(inputs, src_key_padding_mask=padding)
        for layer in encoder.layers:
            layer.self_attn = own(layer.self_attn)
        got = encoder(inputs, src_key_padding_mask=padding)
    torch.testing.assert_close(got[~padding], expected[~padding])


class Attended(nn.Module):
    """Three heads of two in a width of eight: no form of torch's own."""

    def __init__(self):
        super().__init__()
        self.attention = HeadAttention(embed_dim=8, num_heads=3, head_dim=2, batch_first=True)

    def forward(self, inputs):
        return self.attention(inputs, inputs, inputs, need_weights=False)[0].mean(1)


@pytest.mark.parametrize("runtime", ["onnxruntime", "torch"])
def test_it_exports_with_a_free_batch_axis(tmp_path, runtime):
    model, inputs = Attended().eval(), torch.randn(5, 6, 8)
    engine = registry.load("runtimes", runtime, RUNTIMES)()
    path = tmp_path / engine.file_name
    engine.export(model, inputs[:1], path, {})
    got = engine.load(path, 1)({"input": inputs.numpy()})
    np.testing.assert_allclose(got, model(inputs).detach().numpy(), atol=1e-5)
