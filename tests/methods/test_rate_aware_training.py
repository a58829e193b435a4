"""Training with a price on every bit: what the coder says of the result, not what was estimated."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from compression_gate.codec.coded_model import decode_model, encode_model
from compression_gate.codec.coded_size import coded_bytes
from compression_gate.errors import CompressionError, ParamsError
from compression_gate.methods.bit_prices import prices_of
from compression_gate.methods.chain import built
from compression_gate.methods.dead_units import without_dead_units
from compression_gate.methods.magnitude_pruning import MagnitudePruning
from compression_gate.methods.priced_weights import (
    BIAS_LEVELS,
    PricedWeight,
    coarse,
    filled,
    matrices_of,
    rounded_while_trained,
)
from compression_gate.methods.rate_aware_training import RateAwareTraining
from compression_gate.methods.rate_control import RateControl
from compression_gate.modules.saved_model import load_model, save_model
from compression_gate.modules.surgery import state_digest, ties, weights
from compression_gate.records.params import Step
from compression_gate.tasks import training
from compression_gate.tasks.calling import named

KINDS = ("mlp", "lenet", "resnet", "mobilenet", "tokens", "transformer", "recurrent", "gru", "bidirectional", "tied")
RATE = 0.01


def integers(weight: torch.Tensor) -> torch.Tensor | None:
    """The weight as multiples of its smallest size, or None if it is none."""
    sizes = weight.detach().abs()[weight != 0]
    for divisor in range(1, 5):
        step = sizes.min() / divisor
        if torch.equal((weight / step).round() * step, weight):
            return (weight / step).round()
    return None


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model_becomes_integers_and_still_answers(tiny, tmp_path, kind):
    suite = tiny(kind)
    method = RateAwareTraining(strength=0.3, epochs=4, learning_rate=RATE)
    context = suite.context()
    made = method.apply(suite.reference, context)
    assert suite.accuracy(made) >= suite.accuracy(suite.reference) - 0.1
    assert not any("parametrizations" in name for name, _ in made.named_modules())
    assert not any(module._forward_pre_hooks for module in made.modules())
    for weight in weights(made).values():
        assert len(weight.unique()) <= 2 * method.levels + 1
        assert integers(weight) is not None
    size = encode_model(made, suite.factory, tmp_path / "model.cgz")
    decoded = decode_model(suite.factory, tmp_path / "model.cgz")
    assert torch.equal(suite.outputs(decoded), suite.outputs(made))
    assert size <= coded_bytes(made) + 64
    save_model(made, suite.factory, tmp_path / "saved")
    assert torch.equal(suite.outputs(load_model(suite.factory, tmp_path / "saved")), suite.outputs(made))


@pytest.mark.parametrize(("kind", "name"), [("transformer", "place"), ("own", "own.factors")])
def test_a_matrix_that_no_layer_of_torch_holds_becomes_finer_integers(tiny, kind, name):
    suite = tiny(kind)
    context = suite.context()
    made = RateAwareTraining(strength=0.3, epochs=2, learning_rate=RATE).apply(suite.reference, context)
    assert name in context.notes.covered
    assert 3 < len(made.get_parameter(name).unique()) <= 2 * BIAS_LEVELS + 1


def test_parameters_in_lists_are_treated_where_they_are(tiny):
    suite = tiny("listed")
    context = suite.context()
    made = RateAwareTraining(strength=0.3, epochs=2, learning_rate=RATE).apply(suite.reference, context)
    assert {"places.0", "places.1", "scales.first", "scales.second", "head.weight"} <= set(context.notes.covered)
    assert "single number" in context.notes.uncovered["places.2"]
    assert len(made.get_parameter("places.1").unique()) <= 2 * BIAS_LEVELS + 1
    assert suite.accuracy(made) >= suite.accuracy(suite.reference) - 0.1


@pytest.mark.parametrize("kind", ["mlp", "lenet", "recurrent"])
def test_the_dearer_a_bit_the_smaller_the_file(tiny, tmp_path, kind):
    suite = tiny(kind)
    sizes = [
        encode_model(
            suite.apply(RateAwareTraining(strength=strength, epochs=8, learning_rate=RATE)),
            suite.factory,
            tmp_path / f"{strength}.cgz",
        )
        for strength in (0.1, 1.0, 4.0)
    ]
    assert sizes[0] > 1.1 * sizes[1] > 1.1 * 1.1 * sizes[2], sizes


def test_the_price_makes_the_file_smaller_than_the_same_training_without_it(tiny):
    suite = tiny("mlp")
    priced, free = (
        suite.apply(RateAwareTraining(strength=strength, epochs=4, learning_rate=RATE)) for strength in (1.0, 1e-9)
    )
    assert coded_bytes(priced) < 0.7 * coded_bytes(free)
    assert suite.accuracy(priced) >= suite.accuracy(free) - 0.05


@pytest.mark.parametrize(("kind", "target"), [("mlp", 500), ("mlp", 300), ("lenet", 350), ("gru", 600)])
def test_a_target_is_met(tiny, kind, target):
    suite, context = tiny(kind), tiny(kind).context()
    made = RateAwareTraining(target_bytes=target, epochs=8, learning_rate=RATE).apply(suite.reference, context)
    missed = [remark for remark in context.notes.remarks if "missed" in remark]
    assert coded_bytes(made) == pytest.approx(target, rel=0.02), context.notes.remarks
    assert not missed


def test_a_target_changes_nothing_behind_the_last_steps_of_training(tiny):
    """What was validated last is what comes out: nothing is cut when nothing can heal any more."""
    suite, context = tiny("mlp"), tiny("mlp").context()
    made = RateAwareTraining(target_bytes=400, epochs=8, learning_rate=RATE).apply(suite.reference, context)
    loss, quality = training.validated(made, suite.task, 512, torch.device("cpu"))
    last = context.notes.curves["rate_aware_training"][-1]
    assert loss == pytest.approx(last.validation_loss, rel=1e-4)
    assert quality == last.validation_quality


def test_the_freeze_takes_and_gives_back_next_to_nothing(tiny, monkeypatch):
    """The size is held before it, so that the weights that it lets in or takes out have time to learn."""
    freeze, changed = RateControl.freeze, []

    def watched(control, student):
        before = [one.rounding.final(one.weight) for one in matrices_of(control.priced)]
        freeze(control, student)
        after = [one.rounding.final(one.weight) for one in matrices_of(control.priced)]
        there = sum(int((old != 0).sum()) for old in before)
        moved = sum(int(((old != 0) != (new != 0)).sum()) for old, new in zip(before, after, strict=True))
        changed.append(moved / there)

    monkeypatch.setattr(RateControl, "freeze", watched)
    tiny("mlp").apply(RateAwareTraining(target_bytes=400, epochs=8, learning_rate=RATE))
    assert changed[0] <= 0.05


def test_a_target_that_cannot_be_met_is_told(tiny):
    """Norms' statistics alone take more than that."""
    suite = tiny("resnet")
    context = suite.context()
    made = RateAwareTraining(target_bytes=20, epochs=1).apply(suite.reference, context)
    assert coded_bytes(made) > 20
    assert any("target_bytes 20 was missed by +" in remark for remark in context.notes.remarks)


def test_units_without_weights_leave_and_are_named(tiny):
    suite = tiny("mlp")
    with torch.no_grad():
        suite.reference.first.weight[3:9] = 0
        suite.reference.first.bias[3:9] = -0.1
        suite.reference.head.weight[:, 5:8] = 0
    context = suite.context()
    made = RateAwareTraining(strength=0.3, epochs=2, learning_rate=RATE).apply(suite.reference, context)
    assert made.first.out_features <= 32 - 6
    assert made.second.in_features == made.first.out_features
    assert made.second.out_features <= 24 - 3
    assert any("of first" in remark and "of second" in remark for remark in context.notes.remarks)


@pytest.mark.parametrize(("dead", "left"), [(3, 16), (16, 16), (20, 16), (32, 16)])
def test_convolutions_lose_whole_blocks_of_channels(tiny, dead, left):
    """Runtimes compute 16 at once: an odd width takes longer than the even one above it."""
    model = nn.Sequential(
        nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, groups=32), nn.Flatten(), nn.Linear(1152, 4)
    )
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight[:dead] = 0
            layer.bias[:dead] = 0
    smaller, _ = without_dead_units(model.eval(), tiny("lenet").context(), set())
    assert smaller[0].out_channels == smaller[2].groups == (32 if dead < 16 else left)


def test_pruned_weights_stay_zero_and_ignored_layers_stay_without_a_price(tiny):
    suite = tiny("lenet")
    pruned = suite.apply(MagnitudePruning(sparsity=0.6))
    context = suite.context()
    made = RateAwareTraining(strength=1e-6, epochs=2, ignore=("hidden",)).apply(pruned, context)
    assert (made.second.weight[pruned.second.weight == 0] == 0).all()
    assert torch.equal(made.hidden.weight == 0, pruned.hidden.weight == 0)
    assert context.notes.uncovered["hidden.weight"] == "it is in `ignore`"
    assert len(made.hidden.weight.unique()) > 100
    assert "second.weight" in context.notes.covered


def test_a_shared_weight_stays_shared(tiny):
    suite = tiny("tied")
    made = suite.apply(RateAwareTraining(strength=0.3, epochs=2))
    assert ties(made) == ties(suite.reference)
    assert made.again.weight is made.middle.weight


@pytest.mark.parametrize("options", [{"strength": 0.5}, {"target_bytes": 500}])
def test_a_killed_training_is_continued_to_the_same_end(tiny, tmp_path, monkeypatch, options):
    suite, method = tiny("mlp"), RateAwareTraining(epochs=3, learning_rate=RATE, **options)
    whole = suite.apply(method)
    saved, count = training.save_checkpoint, []

    def killed(*args):
        saved(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_checkpoint", killed)
    with pytest.raises(KeyboardInterrupt):
        suite.apply(method, checkpoint=tmp_path / "state.pt")
    monkeypatch.setattr(training, "save_checkpoint", lambda *args: count.append(saved(*args)))
    again = suite.apply(method, checkpoint=tmp_path / "state.pt")
    assert len(count) == 2, "the first epoch was trained again"
    assert state_digest(again) == state_digest(whole)


def test_the_teacher_is_asked_unless_alpha_is_zero(tiny):
    suite = tiny("mlp")
    taught, alone = suite.context(), suite.context()
    first = RateAwareTraining(strength=0.3, epochs=1).apply(suite.reference, taught)
    second = RateAwareTraining(strength=0.3, epochs=1, alpha=0.0).apply(suite.reference, alone)
    assert state_digest(first) != state_digest(second)
    assert any("teacher" in remark for remark in taught.notes.remarks)
    assert not any("teacher" in remark for remark in alone.notes.remarks)


def test_the_estimate_is_compared_with_the_coder_and_told(tiny):
    suite = tiny("mlp")
    context = suite.context()
    made = RateAwareTraining(strength=0.5, epochs=3).apply(suite.reference, context)
    assert any("comparisons)" in remark for remark in context.notes.remarks)
    assert any(f"{coded_bytes(made):,} bytes" in remark for remark in context.notes.remarks)


def test_the_file_runs_in_a_runtime_as_any_float_model(tiny, tmp_path):
    from compression_gate.runtimes.onnx_runtime import OnnxRuntime

    suite = tiny("lenet")
    made = suite.apply(RateAwareTraining(strength=0.5, epochs=2))
    OnnxRuntime().export(made, suite.task.example_inputs(1), tmp_path / "model.onnx", {})
    inputs = {key: value.numpy() for key, value in named(suite.task.example_inputs(32, "test")).items()}
    answers = torch.from_numpy(OnnxRuntime().load(tmp_path / "model.onnx", 1)(inputs))
    torch.testing.assert_close(answers, suite.outputs(made), rtol=1e-4, atol=1e-4)


BAD = [
    ({}, r"^strength: expected exactly one of strength, target_bytes, got none"),
    ({"strength": 1.0, "target_bytes": 100}, r"^strength: expected exactly one .*got strength and target_bytes"),
    ({"strength": -1.0}, r"^strength: .*-1\.0"),
    ({"target_bytes": 0}, r"^target_bytes: .*0"),
    ({"strength": 1.0, "freeze": 1.0}, r"^freeze: .*1\.0"),
    ({"strength": 1.0, "levels": 128}, r"^levels: .*128"),
    ({"strength": 1.0, "temperature": 0.0}, r"^temperature: .*0\.0"),
    ({"strength": 1.0, "teacher": "me"}, r"^teacher: .*'me'"),
]


@pytest.mark.parametrize(("options", "text"), BAD)
def test_a_bad_option_is_named(options, text):
    with pytest.raises(ParamsError, match=text):
        RateAwareTraining(**options)


ORDERS = [
    (["weight_sharing", "rate_aware_training"], "undo the sharing"),
    (["rate_aware_training", "weight_sharing"], "few integers times a step"),
    (["rate_aware_training", "weight_only_quantization"], "few integers times a step"),
    (["rate_aware_training", "distillation"], "undo the sharing"),
    (["rate_aware_training", "batchnorm_folding"], "undo the sharing"),
    (["static_quantization", "rate_aware_training"], "the weights are integers then"),
]
ORDER_OPTIONS = {"weight_sharing": {"bits": 4}, "rate_aware_training": {"strength": 1.0}}


@pytest.mark.parametrize(("names", "reason"), ORDERS)
def test_an_order_that_makes_no_sense_is_refused(names, reason):
    steps = [Step(method=name, **ORDER_OPTIONS.get(name, {})) for name in names]
    with pytest.raises(ParamsError, match=rf"1: {names[1]} cannot come after {names[0]} .*{reason}"):
        built(steps, "steps")


def test_pruning_and_folding_may_come_before_it():
    names = ("batchnorm_folding", "magnitude_pruning", "rate_aware_training")
    options = ORDER_OPTIONS | {"magnitude_pruning": {"sparsity": 0.5}}
    assert len(built([Step(method=name, **options.get(name, {})) for name in names], "steps")) == 3


def test_weights_that_change_when_read_are_left_and_named(tiny):
    suite, context = tiny("mlp"), tiny("mlp").context()
    nn.utils.parametrizations.weight_norm(suite.reference.second)
    made = RateAwareTraining(strength=1.0, epochs=1).apply(suite.reference, context)
    left = "second.parametrizations.weight.original1"
    assert "parametrizations stay" in context.notes.uncovered[left]
    assert len(made.get_parameter(left).unique()) > 100
    suite, context = tiny("tokens"), tiny("tokens").context()
    suite.reference.embedding.max_norm = 2.0
    RateAwareTraining(strength=1.0, epochs=1).apply(suite.reference, context)
    assert "max_norm" in context.notes.uncovered["embedding.weight"]


def test_what_cannot_be_treated_is_refused_by_name(tiny):
    suite = tiny("mlp")
    with pytest.raises(ParamsError, match=r"ignore: .*'hed'.*'head'"):
        suite.apply(RateAwareTraining(strength=1.0, ignore=("hed",)))
    frozen = copy.deepcopy(suite.reference).requires_grad_(False)
    with pytest.raises(CompressionError, match="frozen"):
        suite.apply(RateAwareTraining(strength=1.0), frozen)
    broken = copy.deepcopy(suite.reference)
    broken.second.weight.data[0, 0] = float("nan")
    with pytest.raises(CompressionError, match=r"second\.weight"):
        suite.apply(RateAwareTraining(strength=1.0), broken)


def test_a_place_is_dearer_in_an_empty_row_and_dearest_with_an_empty_column():
    """The first half of the rows and columns is full to 60 %, the other to 15 %; both together to 4 %."""
    density = torch.tensor([0.6] * 40 + [0.15] * 40).unsqueeze(1) * torch.tensor([1.0] * 60 + [0.25] * 60)
    plane = (torch.rand(80, 120, generator=torch.Generator().manual_seed(0)) < density).float()
    first = prices_of(plane).first
    full, row, column, neither = (
        float(first[rows][:, columns].mean())
        for rows in (slice(40), slice(40, 80))
        for columns in (slice(60), slice(60, 120))
    )
    assert full + 1.5 < min(row, column) <= max(row, column) < neither - 1
    assert full == pytest.approx(1 - math.log2(0.6 / 0.4), abs=0.5)


def test_the_estimate_is_near_the_coder_for_scattered_integers():
    random = torch.Generator().manual_seed(1)
    density = torch.rand(120, 1, generator=random) * torch.rand(1, 150, generator=random)
    plane = (torch.rand(120, 150, generator=random) < density * 0.4).float()
    plane *= torch.randint(1, 3, plane.shape, generator=random) * (
        torch.randint(0, 2, plane.shape, generator=random) * 2 - 1
    )
    layer = nn.Linear(150, 120, bias=False)
    with torch.no_grad():
        layer.weight.copy_(plane * 0.25)
    assert prices_of(plane).total / 8 == pytest.approx(coded_bytes(layer), rel=0.1)


def test_the_estimate_follows_the_coder_within_two_percent_once_it_was_asked():
    """A third of the weights leave, a tenth at a time; the counts alone are further off."""
    torch.manual_seed(0)
    shell = nn.Sequential(nn.Linear(150, 120), nn.ReLU(), nn.Linear(120, 40))
    student = copy.deepcopy(shell)
    priced = rounded_while_trained(student, dict(student.named_parameters()), 3)
    control = RateControl(priced=priced, shell=shell, steps=100, frozen_from=80, strength=1.0, target=None, unit=0.01)
    control.compare(student)
    alone = [control.counted / control.seen[0][2] - 1]
    for _ in range(4):
        with torch.no_grad():
            for one in matrices_of(priced):
                one.weight.mul_(torch.rand_like(one.weight) > 0.1)
        control.reprice()
        real = coded_bytes(filled(shell, student, priced))
        assert control.estimated_bytes == pytest.approx(real, rel=0.02)
        alone.append(control.counted / real - 1)
        control.compare(student)
        assert control.estimated_bytes == pytest.approx(real)
    assert max(map(abs, alone)) > 0.02
    assert all(abs(one) <= 0.02 for one in control.errors())


def test_a_frozen_weight_keeps_its_zeros_and_its_size():
    weight = torch.tensor([[0.02, -0.26, 0.6, 1.1]])
    rounding = PricedWeight(weight, 2)
    with torch.no_grad():
        rounding.step.first.fill_(0.53)
        rounding.live.copy_(torch.tensor([[False, True, True, True]]))
        rounding.frozen.fill_(True)
    step = float(coarse(torch.tensor(0.53)))
    assert torch.equal(rounding(weight), torch.tensor([[0.0, -1, 1, 2]]) * step)
    assert torch.equal(rounding.final(torch.tensor([[5.0, -0.01, 0.6, 9.0]])), torch.tensor([[0.0, -1, 1, 2]]) * step)


@pytest.mark.parametrize(("kept", "asked"), [(1.0, [80]), (0.7, [80, 100])])
def test_the_coder_is_asked_again_early_where_the_size_moved_far(kept, asked):
    torch.manual_seed(0)
    shell = nn.Linear(150, 120)
    student = copy.deepcopy(shell)
    priced = rounded_while_trained(student, dict(student.named_parameters()), 3)
    control = RateControl(
        priced=priced, shell=shell, steps=2000, frozen_from=1600, strength=1.0, target=None, unit=0.01
    )
    for step in range(1, 121):
        control(student)
        if step == 90:
            with torch.no_grad():
                for one in matrices_of(priced):
                    one.weight.mul_(torch.rand_like(one.weight) < kept)
    assert [step for step, _, _ in control.seen] == asked


@pytest.mark.parametrize(("cut", "integers"), [(0.3, [0.0, -1, 1, 2]), (0.5, [0.0, 0, 1, 2]), (0.8, [0.0, 0, 0, 2])])
def test_a_cut_says_which_weights_are_zeros(cut, integers):
    weight = torch.tensor([[0.2, -0.4, 0.7, 1.8]])
    rounding = PricedWeight(weight, 3)
    with torch.no_grad():
        rounding.step.first.fill_(1.0)
    rounding.cut = cut
    assert torch.equal(rounding.final(weight), torch.tensor([integers]))


def test_the_slope_of_the_price_is_that_of_the_bits():
    """The first level's below a step, each further one's beyond, none where weights are cut or dead."""
    weight = torch.tensor([[0.3, -0.3, 0.8, 2.0, 0.0]], requires_grad=True)
    rounding = PricedWeight(weight.detach(), 3)
    with torch.no_grad():
        rounding.step.first.fill_(0.5)
        rounding.first.fill_(6.0)
        rounding.further.fill_(2.0)
    rounding.price(weight).backward()
    assert torch.allclose(weight.grad, torch.tensor([[12.0, -12.0, 4.0, 0.0, 0.0]]))
    assert rounding.step.growth.grad is None


def test_gradients_pass_the_rounding_and_stop_where_it_cuts():
    """As autograd has it for the same written with tensors; the third weight is cut, the fifth pruned."""
    weight = torch.tensor([[0.3, -0.4, 2.0, 1.1, 0.0]], requires_grad=True)
    rounding = PricedWeight(weight.detach(), 3)
    with torch.no_grad():
        rounding.step.first.fill_(0.5)
        rounding.step.gradient_scale = 1.0
    above = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    (rounding(weight) * above).sum().backward()
    assert torch.allclose(weight.grad, torch.tensor([[1.0, 2.0, 0.0, 4.0, 0.0]]))
    # Of the step: integer less ratio, or the integer where it is cut; times the step, whose logarithm is learned.
    expected = 0.5 * (1 * (1 - 0.6) + 2 * (-1 + 0.8) + 3 * 3 + 4 * (2 - 2.2))
    assert float(rounding.step.growth.grad) == pytest.approx(expected, rel=1e-5)


def test_rounding_keeps_the_layout_of_a_weight():
    """A kernel of one input channel has channels last by its strides alone: without them convolutions get slower."""
    weight = torch.randn(8, 1, 5, 5).to(memory_format=torch.channels_last)
    assert PricedWeight(weight, 2)(weight).stride() == weight.stride()


def test_a_bias_may_grow_from_zero():
    rounding = PricedWeight(torch.zeros(5), BIAS_LEVELS)
    assert bool(rounding.live.all())
    assert float(rounding(torch.full((5,), 0.05)).detach().max()) == pytest.approx(0.05, abs=0.004)
