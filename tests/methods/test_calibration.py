"""Ranges of activations: every pass over the calibration data meets the same values."""

from __future__ import annotations

import torch

from compression_gate.methods.calibration import observed


def test_passes_over_data_that_draw_their_noise_meet_the_same_values(tiny):
    """Values that only the second pass met would lie outside the histogram's bounds, and be left out."""
    suite = tiny("mlp", data="tiny_models_of_method_tests:restless")
    first, second = (
        observed(suite.reference, {"first": suite.reference.first}, suite.context(), histograms=True)["first"]
        for _ in range(2)
    )
    assert first.input.histogram.sum() == first.input.count
    assert torch.equal(first.input.histogram, second.input.histogram)
    assert (first.output.low, first.output.high) == (second.output.low, second.output.high)
