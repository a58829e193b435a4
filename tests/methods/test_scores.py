"""What calibration data say about weights and channels does not depend on what was drawn before."""

from __future__ import annotations

import torch
from torch import nn

from compression_gate.methods.scores import gradients, mean_inputs

RESTLESS = "tiny_models_of_method_tests:restless"


def test_gradients_are_the_same_every_time_on_data_that_draw_their_noise(tiny):
    suite = tiny("mlp", data=RESTLESS)
    first, second = (gradients(suite.reference, suite.context()) for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())


def test_mean_inputs_are_the_same_every_time_on_data_that_draw_their_noise(tiny):
    suite = tiny("mlp", data=RESTLESS)
    first, second = (mean_inputs(suite.reference, suite.context(), (nn.Linear,)) for _ in range(2))
    assert len(first) == 3
    assert all(torch.equal(value, second[layer]) for layer, value in first.items())
