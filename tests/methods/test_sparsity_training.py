"""What each penalty makes small, against a control that pushes as hard without a direction."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from compression_gate.errors import CompressionError, ParamsError
from compression_gate.methods.magnitude_pruning import MagnitudePruning
from compression_gate.methods.sparsity_training import SparsityTraining, channels
from compression_gate.modules.surgery import state_digest, weights
from compression_gate.tasks import training

STRONG = {"strength": 0.01, "epochs": 6}


def near_zero(model):
    """Share of single weights under a hundredth of their layer's largest."""
    return torch.cat([(w.detach().abs() < 0.01 * w.detach().abs().max()).flatten() for w in weights(model).values()])


def small_channels(model):
    """Share of channels whose norm is under a tenth of their layer's largest."""
    lengths = [weight.detach().flatten(1).norm(dim=1) for weight in weights(model).values()]
    return torch.cat([length < 0.1 * length.max() for length in lengths])


def energy(model):
    return sum(float(weight.detach().square().sum()) for weight in weights(model).values())


def share(flags):
    return float(flags.float().mean())


@pytest.mark.parametrize(("penalty", "counted"), [("l1", near_zero), ("group_lasso", small_channels)])
def test_a_penalty_makes_more_small_than_the_control(tiny, penalty, counted):
    suite = tiny("lenet")
    trained, control = (suite.apply(SparsityTraining(penalty=kind, **STRONG)) for kind in (penalty, "random"))
    assert share(counted(trained)) > share(counted(control)) + 0.1
    assert suite.accuracy(trained) > 0.8


def test_l2_makes_the_weights_smaller_than_the_control(tiny):
    suite = tiny("lenet")
    trained, control = (suite.apply(SparsityTraining(penalty=kind, **STRONG)) for kind in ("l2", "random"))
    assert energy(trained) < 0.9 * energy(control)


def test_pruning_afterwards_takes_less_away(tiny):
    suite = tiny("mlp")
    kept = []
    for penalty in ("l1", "random"):
        model = suite.apply(SparsityTraining(penalty=penalty, **STRONG))
        kept.append(energy(suite.apply(MagnitudePruning(sparsity=0.8), model)) / energy(model))
    assert 1 - kept[0] < 0.5 * (1 - kept[1])


WEIGHT = torch.tensor([[3.0, -4.0], [0.0, 0.0], [1.0, 0.0]])
PENALTIES = [("l1", 8.0), ("l2", 26.0), ("group_lasso", math.sqrt(2) * 6)]


@pytest.mark.parametrize(("penalty", "value"), PENALTIES)
def test_the_penalty_is_what_its_formula_says(penalty, value):
    assert float(SparsityTraining(penalty=penalty).of(WEIGHT, nn.Linear(2, 3))) == pytest.approx(value)


def test_a_channel_of_zeros_has_a_finite_slope():
    weight = WEIGHT.clone().requires_grad_(True)
    SparsityTraining(penalty="group_lasso").of(weight, nn.Linear(2, 3)).backward()
    assert torch.isfinite(weight.grad).all()
    assert weight.grad[1].tolist() == [0.0, 0.0]


def test_the_control_pushes_every_weight_as_hard_as_l1():
    torch.manual_seed(0)
    weight = torch.randn(20, 30, requires_grad=True)
    SparsityTraining(penalty="random").of(weight, nn.Linear(30, 20)).backward()
    assert weight.grad.abs().unique().tolist() == [1.0]
    assert abs(float(weight.grad.mean())) < 0.2


ROWS = [  # layer, its weight, rows of what stands together
    (nn.Linear(5, 7), (7, 5)),
    (nn.Conv2d(4, 6, 3), (6, 36)),
    (nn.ConvTranspose2d(4, 6, 3), (6, 36)),
    (nn.ConvTranspose2d(4, 6, 3, groups=2), (6, 18)),
    (nn.Embedding(9, 5), (5, 9)),
]


@pytest.mark.parametrize(("layer", "shape"), ROWS)
def test_channels_are_those_of_the_output(layer, shape):
    assert channels(layer.weight, layer).shape == shape


def test_all_gates_of_a_recurrent_unit_stand_together():
    layer = nn.LSTM(3, 5)
    weight = torch.arange(20.0)[:, None].expand(20, 3)
    rows = channels(weight, layer)
    assert rows.shape == (5, 12)
    assert rows[2].unique().tolist() == [2.0, 7.0, 12.0, 17.0]


def test_grouped_transposed_channels_are_those_of_their_group():
    layer = nn.ConvTranspose1d(4, 6, 1, groups=2)
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[2:, 1] = 1.0  # the second group's second output: channel 4
    assert channels(layer.weight, layer).abs().sum(1).nonzero().flatten().tolist() == [4]


def test_zeros_stay_zero_and_frozen_weights_stay(tiny):
    suite = tiny("mlp")
    sparse = suite.apply(MagnitudePruning(sparsity=0.8))
    sparse.first.weight.requires_grad_(False)
    context = suite.context()
    trained = SparsityTraining(epochs=1).apply(sparse, context)
    for name, weight in weights(sparse).items():
        assert bool((weights(trained)[name][weight == 0] == 0).all()), name
    assert torch.equal(trained.first.weight, sparse.first.weight)
    assert context.notes.uncovered == {"first.weight": "frozen"}
    assert context.notes.covered == ["second.weight", "head.weight"]
    assert [len(curve) for curve in context.notes.curves.values()] == [1]


def test_a_model_without_weights_to_train_is_refused(tiny):
    suite = tiny("mlp")
    for weight in weights(suite.reference).values():
        weight.requires_grad_(False)
    with pytest.raises(CompressionError, match=r"sparsity_training: no weights can be trained: first\.weight: frozen"):
        suite.apply(SparsityTraining())


@pytest.mark.parametrize("penalty", ["group_lasso", "random"])
def test_training_continued_after_a_kill_ends_where_it_would_have(tiny, tmp_path, monkeypatch, penalty):
    suite, method = tiny("mlp"), SparsityTraining(penalty=penalty, epochs=2)
    whole = suite.apply(method)
    checkpoint, saved = tmp_path / "checkpoint.pt", training.save_checkpoint

    def killed(*arguments):
        saved(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        suite.apply(method, checkpoint=checkpoint)
    monkeypatch.setattr(training, "save_checkpoint", saved)
    assert state_digest(suite.apply(method, checkpoint=checkpoint)) == state_digest(whole)
    assert not checkpoint.exists()


BAD = [
    ({"penalty": "l3"}, "penalty: expected one of l1, l2, group_lasso, random, got 'l3'"),
    ({"strength": 0.0}, "strength: expected more than 0, got 0.0"),
    ({"epochs": 0}, "epochs: expected 1 or more, got 0"),
    ({"learning_rate": -1.0}, "learning_rate: expected more than 0, got -1.0"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ParamsError, match=message):
        SparsityTraining(**options)
