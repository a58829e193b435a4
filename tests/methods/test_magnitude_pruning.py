"""Zeros: how many, where, and that they stay."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compression_gate.errors import ParamsError
from compression_gate.methods.magnitude_pruning import COUNTER, MagnitudePruning, cubic, lowest_of
from compression_gate.modules.surgery import state_digest, weights
from compression_gate.tasks import training


def share(weight):
    return float((weight == 0).float().mean())


def all_zeros(model):
    return torch.cat([weight.detach().flatten() == 0 for weight in weights(model).values()])


@pytest.mark.parametrize("score", ["l1", "l2", "gradient", "taylor", "random"])
def test_local_pruning_reaches_the_share_in_every_layer(tiny, score):
    pruned = tiny("lenet").apply(MagnitudePruning(sparsity=0.75, score=score))
    for weight in weights(pruned).values():
        assert share(weight) == pytest.approx(0.75, abs=1 / weight.numel())


def test_global_pruning_reaches_the_share_over_all_layers_and_spares_some(tiny):
    pruned = tiny("lenet").apply(MagnitudePruning(sparsity=0.75, scope="global"))
    assert float(all_zeros(pruned).float().mean()) == pytest.approx(0.75, abs=0.001)
    assert max(share(weight) for weight in weights(pruned).values()) > 0.76


def test_a_threshold_removes_exactly_what_is_below_it(tiny):
    suite = tiny("mlp")
    pruned = suite.apply(MagnitudePruning(threshold=0.05))
    for name, weight in weights(suite.reference).items():
        assert torch.equal(weights(pruned)[name] == 0, weight.abs() < 0.05)


def test_recurrent_attention_and_embedding_weights_are_treated(tiny):
    for kind, name in (("recurrent", "lstm.weight_hh_l1"), ("transformer", "encoder.self_attn.in_proj_weight")):
        pruned = tiny(kind).apply(MagnitudePruning(sparsity=0.5))
        assert share(pruned.get_parameter(name)) == pytest.approx(0.5, abs=0.01)


def test_weights_outside_known_layers_are_named(tiny):
    suite = tiny("transformer")
    context = suite.context()
    MagnitudePruning(sparsity=0.5).apply(suite.reference, context)
    assert "belongs to Transformer" in context.notes.uncovered["place"]


def test_biases_and_norms_are_left_alone(tiny):
    suite = tiny("resnet")
    pruned = suite.apply(MagnitudePruning(sparsity=0.9))
    assert torch.equal(pruned.norm.weight, suite.reference.norm.weight)
    assert torch.equal(pruned.head.bias, suite.reference.head.bias)


@pytest.mark.parametrize("schedule", ["one_shot", "gradual"])
def test_fine_tuning_keeps_the_share_and_helps(tiny, schedule):
    suite = tiny("mlp")
    bare = suite.apply(MagnitudePruning(sparsity=0.95))
    tuned = suite.apply(MagnitudePruning(sparsity=0.95, epochs=4, schedule=schedule))
    assert [share(w) for w in weights(tuned).values()] == [share(w) for w in weights(bare).values()]
    assert suite.accuracy(tuned) >= suite.accuracy(bare)
    assert not any(name.startswith(COUNTER) for name in tuned.state_dict())
    assert not torch.equal(tuned.first.weight, bare.first.weight)


def test_gradual_pruning_continued_after_a_kill_ends_where_it_would_have(tiny, tmp_path, monkeypatch):
    suite = tiny("mlp")
    method = MagnitudePruning(sparsity=0.9, epochs=3, schedule="gradual")
    whole = suite.apply(method)
    checkpoint, saved = tmp_path / "checkpoint.pt", training.save_checkpoint

    def killed(model, optimizer, schedule, curve, fitting):
        saved(model, optimizer, schedule, curve, fitting)
        if len(curve) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        suite.apply(method, checkpoint=checkpoint)
    monkeypatch.setattr(training, "save_checkpoint", saved)
    assert state_digest(suite.apply(method, checkpoint=checkpoint)) == state_digest(whole)


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=40), st.floats(0, 0.99))
def test_the_lowest_share_is_a_floor_and_holds_nothing_above_what_stays(values, part):
    scores = torch.tensor(values)
    mask = lowest_of(scores, part)
    assert int(mask.sum()) == int(part * len(values) + 1e-9)
    assert not mask.any() or mask.all() or scores[mask].max() <= scores[~mask].min()


def test_the_cubic_curve_starts_at_the_start_rises_and_arrives_before_the_last_quarter():
    curve = [cubic(step, 100, 0.2, 0.9) for step in range(101)]
    assert curve[0] == pytest.approx(0.2)
    assert curve == sorted(curve)
    assert curve[75] == curve[100] == pytest.approx(0.9)
    assert curve[10] - curve[0] > curve[70] - curve[60], "fast while there is much to spare"


BAD = [
    ({}, "sparsity: expected exactly one of sparsity, threshold, got none"),
    ({"sparsity": 0.5, "threshold": 0.1}, "sparsity: expected exactly one of .*got sparsity and threshold"),
    ({"sparsity": 1.0}, "sparsity: expected 0 or more and less than 1, got 1.0"),
    ({"threshold": -1.0}, "threshold: expected 0 or more, got -1.0"),
    ({"sparsity": 0.5, "scope": "globl"}, r"scope: .*'globl' \(did you mean 'global'\?\)"),
    ({"sparsity": 0.5, "schedule": "gradual"}, "schedule: gradual prunes while it trains: expected epochs"),
    ({"sparsity": 0.5, "schedule": "gradual", "epochs": 1, "score": "taylor"}, "schedule: .*score 'taylor'"),
    ({"threshold": 0.5, "score": "random"}, "threshold: .*'random'"),
    ({"sparsity": 0.5, "epochs": -1}, "epochs: expected 0 or more, got -1"),
    ({"sparsity": 0.5, "learning_rate": 0.0}, "learning_rate: expected more than 0, got 0.0"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ParamsError, match=message):
        MagnitudePruning(**options)
