"""Zeros: how many, where, and that they stay."""

from __future__ import annotations

import pytest
import torch

from compression_gate.errors import CompressionError, ParamsError
from compression_gate.methods.gradual_pruning import COUNTER
from compression_gate.methods.magnitude_pruning import MagnitudePruning
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


def test_recurrent_and_attention_weights_are_treated(tiny):
    for kind, name in (
        ("recurrent", "lstm.weight_hh_l1"),
        ("transformer", "encoder.layers.0.self_attn.in_proj_weight"),
    ):
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
def test_fine_tuning_moves_ignored_layers_and_keeps_their_zeros(tiny, schedule):
    suite = tiny("mlp")
    before = suite.apply(MagnitudePruning(sparsity=0.5))
    method = MagnitudePruning(sparsity=0.8, epochs=1, schedule=schedule, ignore=("second",))
    after = suite.apply(method, before)
    assert torch.equal(after.second.weight == 0, before.second.weight == 0)
    assert not torch.equal(after.second.weight, before.second.weight)


@pytest.mark.parametrize("schedule", ["one_shot", "gradual"])
def test_fine_tuning_keeps_the_share_and_helps(tiny, schedule):
    suite = tiny("mlp")
    bare = suite.apply(MagnitudePruning(sparsity=0.95))
    tuned = suite.apply(MagnitudePruning(sparsity=0.95, epochs=4, schedule=schedule))
    assert [share(w) for w in weights(tuned).values()] == [share(w) for w in weights(bare).values()]
    assert suite.accuracy(tuned) >= suite.accuracy(bare)
    assert not any(name.startswith(COUNTER) for name in tuned.state_dict())
    assert not torch.equal(tuned.first.weight, bare.first.weight)


KILLED = [
    {"sparsity": 0.9, "schedule": "gradual"},
    {"sparsity": 0.9, "schedule": "gradual", "regrowth": 0.3, "scope": "global"},
    {"sparsity": 0.9},
    {"pattern": "2:4"},
]


@pytest.mark.parametrize("options", KILLED)
def test_pruning_killed_in_the_middle_of_an_epoch_and_resumed_ends_where_it_would_have(
    tiny, tmp_path, monkeypatch, options
):
    suite = tiny("mlp")
    method = MagnitudePruning(epochs=3, **options)
    whole = suite.apply(method)
    checkpoint, step, steps = tmp_path / "checkpoint.pt", training.train_step, []

    def killed(*arguments):
        steps.append(1)
        if len(steps) == 13:  # of 24, 8 an epoch
            raise KeyboardInterrupt
        return step(*arguments)

    monkeypatch.setattr(training, "train_step", killed)
    with pytest.raises(KeyboardInterrupt):
        suite.apply(method, checkpoint=checkpoint)
    assert checkpoint.exists()
    resumed = suite.apply(method, checkpoint=checkpoint)
    assert len(steps) == 13 + 16, "the first epoch was trained again"
    assert state_digest(resumed) == state_digest(whole)
    assert not checkpoint.exists()


def test_regrowth_brings_weights_back_and_keeps_the_share(tiny):
    suite = tiny("mlp")
    gradual = MagnitudePruning(sparsity=0.9, epochs=4, schedule="gradual")
    regrown = suite.apply(MagnitudePruning(sparsity=0.9, epochs=4, schedule="gradual", regrowth=0.5))
    plain = suite.apply(gradual)
    for name, weight in weights(regrown).items():
        assert share(weight) == share(weights(plain)[name]) == pytest.approx(0.9, abs=1 / weight.numel())
    assert not torch.equal(regrown.first.weight == 0, plain.first.weight == 0)


def test_embeddings_are_treated_by_option_and_named_otherwise(tiny):
    suite = tiny("tokens")
    context = suite.context()
    pruned = MagnitudePruning(sparsity=0.5).apply(suite.reference, context)
    assert torch.equal(pruned.embedding.weight, suite.reference.embedding.weight)
    assert "embeddings: true" in context.notes.uncovered["embedding.weight"]
    assert share(suite.apply(MagnitudePruning(sparsity=0.5, embeddings=True)).embedding.weight) == 0.5


def test_a_shared_weight_is_treated_once_and_stays_shared(tiny):
    suite = tiny("tied")
    context = suite.context()
    pruned = MagnitudePruning(sparsity=0.75, scope="global").apply(suite.reference, context)
    assert pruned.again.weight is pruned.middle.weight
    assert [name for name in context.notes.covered if name in ("middle.weight", "again.weight")] == ["middle.weight"]
    assert float(all_zeros(pruned).float().mean()) == pytest.approx(0.75, abs=0.001)


PATTERNED = [("mlp", "first.weight"), ("recurrent", "lstm.weight_ih_l0"), ("recurrent", "lstm.weight_hh_l1")]
PATTERNED += [("transformer", "encoder.layers.0.self_attn.in_proj_weight"), ("lenet", "second.weight")]


@pytest.mark.parametrize(("kind", "name"), PATTERNED)
def test_a_pattern_leaves_the_two_largest_of_each_four_inputs(tiny, kind, name):
    suite = tiny(kind)
    before = suite.reference.get_parameter(name).detach().movedim(1, -1)
    after = suite.apply(MagnitudePruning(pattern="2:4")).get_parameter(name).detach().movedim(1, -1)
    assert ((after.reshape(-1, 4) != 0).sum(1) == 2).all()
    kept = torch.where(after != 0, before, 0.0)
    assert torch.equal(kept, after)
    largest = before.reshape(-1, 4).abs().topk(2).values.sum(1)
    torch.testing.assert_close(after.reshape(-1, 4).abs().sum(1), largest)


def test_a_pattern_names_the_layers_it_does_not_fit_and_treats_the_others(tiny):
    suite = tiny("lenet")
    context = suite.context()
    pruned = MagnitudePruning(pattern="2:4").apply(suite.reference, context)
    assert context.notes.uncovered == {"first.weight": "2:4 needs inputs in multiples of 4: it has 1"}
    assert torch.equal(pruned.first.weight, suite.reference.first.weight)
    assert share(pruned.second.weight) == 0.5


def test_a_pattern_that_fits_nowhere_is_refused_with_every_layer(tiny):
    with pytest.raises(CompressionError, match=r"first\.weight: 3:5 needs inputs in multiples of 5: it has 64; second"):
        tiny("mlp").apply(MagnitudePruning(pattern="3:5"))


def test_a_pattern_holds_while_the_rest_is_trained(tiny):
    suite = tiny("mlp")
    bare, tuned = (suite.apply(MagnitudePruning(pattern="1:4", epochs=epochs)) for epochs in (0, 2))
    assert torch.equal(bare.second.weight == 0, tuned.second.weight == 0)
    assert suite.accuracy(tuned) > suite.accuracy(bare)


BAD = [
    ({}, "sparsity: expected exactly one of sparsity, threshold, pattern, budget, budget_bytes, got none"),
    ({"sparsity": 0.5, "threshold": 0.1}, "sparsity: expected exactly one of .*got sparsity and threshold"),
    ({"sparsity": 1.0}, "sparsity: expected 0 or more and less than 1, got 1.0"),
    ({"threshold": -1.0}, "threshold: expected 0 or more, got -1.0"),
    ({"sparsity": 0.5, "scope": "globl"}, r"scope: .*'globl' \(did you mean 'global'\?\)"),
    ({"sparsity": 0.5, "schedule": "gradual"}, "schedule: gradual prunes while it trains: expected epochs"),
    ({"sparsity": 0.5, "schedule": "gradual", "epochs": 1, "score": "taylor"}, "schedule: .*score 'taylor'"),
    ({"threshold": 0.5, "score": "random"}, "threshold: .*'random'"),
    ({"threshold": 0.5, "scope": "global"}, "scope: a threshold is the same in .*expected local, got 'global'"),
    ({"sparsity": 0.5, "schedule": "gradual", "epochs": 1, "regrowth": 1.0}, "regrowth: expected 0 or more and less"),
    ({"sparsity": 0.5, "epochs": 1, "regrowth": 0.1}, "regrowth: .*expected schedule gradual, got 'one_shot'"),
    ({"pattern": "2:4", "schedule": "gradual", "epochs": 1}, "schedule: .*expected sparsity or budget, got pattern"),
    ({"pattern": "4:2"}, "pattern: expected .*got '4:2'"),
    ({"pattern": "half"}, "pattern: expected .*got 'half'"),
    ({"pattern": "2:4", "scope": "global"}, "scope: .*expected local, got 'global'"),
    ({"sparsity": 0.5, "pattern": "2:4"}, "sparsity: expected exactly one of .*got sparsity and pattern"),
    ({"sparsity": 0.5, "epochs": -1}, "epochs: expected 0 or more, got -1"),
    ({"sparsity": 0.5, "learning_rate": 0.0}, "learning_rate: expected more than 0, got 0.0"),
]


@pytest.mark.parametrize(("options", "message"), BAD)
def test_impossible_options_are_refused(options, message):
    with pytest.raises(ParamsError, match=message):
        MagnitudePruning(**options)
