"""Detection: scenes of real items, the loss' matching, mAP against its definition, and the gate's view of it."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch

from compression_gate.gate.intervals import of_scores

pytestmark = pytest.mark.usefixtures("clothing")


def modules(example, *names):
    folder = example("detection")
    return [folder, *(importlib.import_module(name) for name in names)]


def test_scenes_are_the_same_every_time_and_boxes_enclose_the_items(example):
    _, scenes = modules(example, "scenes")
    data, again = (scenes.load("test", count=40) for _ in range(2))
    assert torch.equal(data.images, again.images)
    assert torch.equal(data.items, again.items)
    assert not torch.equal(data.images, scenes.load("train", count=40).images)
    for image, items in (data[index] for index in range(40)):
        covered = torch.zeros(64, 64, dtype=torch.bool)
        for label, *box in items[items[:, 0] >= 0].tolist():
            left, top, right, bottom = (round(edge * 64) for edge in box)
            assert 0 <= left < right <= 64
            assert 0 <= top < bottom <= 64
            assert 0 <= label <= 9
            covered[top:bottom, left:right] = True
        assert not (image[0] >= scenes.VISIBLE / 255)[~covered].any()


def test_overlaps_are_intersections_over_unions(example):
    _, scenes = modules(example, "scenes")
    boxes = torch.tensor([[0, 0, 0.5, 0.5], [0.25, 0, 0.75, 0.5], [0.6, 0.6, 1, 1]])
    expected = torch.tensor([[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 1]])
    torch.testing.assert_close(scenes.overlaps(boxes, boxes), expected)


def test_every_item_is_found_by_an_anchor_and_offsets_are_undone(example):
    _, scenes, detector = modules(example, "scenes", "detector")
    items = scenes.load("test", count=64).items
    labels, boxes = detector.matched(items)
    for row, own in zip(labels, items, strict=True):
        assert set(row.tolist()) - {0} == {int(label) + 1 for label in own[:, 0] if label >= 0}
    torch.testing.assert_close(detector.decoded(detector.encoded(boxes)), boxes, atol=1e-5, rtol=0)


def answers_for(detector, items, confidence=6.0):
    """Outputs of a detector that finds every item, by the anchors matched to it."""
    labels, boxes = detector.matched(items)
    outputs = torch.zeros(*labels.shape, detector.NUMBERS)
    outputs[..., :4] = torch.where((labels > 0)[..., None], detector.encoded(boxes), 0)
    outputs[..., 4:] = torch.nn.functional.one_hot(labels, detector.CLASSES + 1) * confidence
    return outputs


def test_loss_is_least_for_the_right_answers(example):
    _, scenes, detector = modules(example, "scenes", "detector")
    items = scenes.load("test", count=8).items
    right = answers_for(detector, items, 20.0)
    wrong = right.clone()
    wrong[..., :4] += 1
    assert detector.loss(right, items) < 1e-3 < detector.loss(wrong, items)
    assert detector.loss(torch.zeros_like(right), items) > 1


def test_precision_is_one_for_the_right_answers_and_nothing_for_none(example):
    _, scenes, detector, precision = modules(example, "scenes", "detector", "average_precision")
    items = scenes.load("test", count=60).items
    right = answers_for(detector, items, 20.0)
    torch.testing.assert_close(precision.score(right, items)["mAP"], torch.ones(60, dtype=torch.float64))
    nothing = torch.zeros_like(right)
    nothing[..., 4] = 20.0
    assert precision.score(nothing, items)["mAP"].tolist() == [0.0] * 60


def test_area_is_that_of_a_ranking_by_hand(example):
    """Right, wrong, right, with three to find: precision 1 up to a third, then 2/3 up to two thirds."""
    _, precision = modules(example, "average_precision")
    right = np.array([[True, False, True]])
    assert precision.area(right, np.ones_like(right), np.array([3]))[0] == pytest.approx((1 + 2 / 3) / 3)


def noisy(detector, items, seed):
    """Outputs between right and random."""
    random = torch.Generator().manual_seed(seed)
    outputs = answers_for(detector, items, 4.0)
    return outputs + torch.randn(outputs.shape, generator=random) * torch.tensor([1.0] * 4 + [1.5] * 11)


def test_scores_add_up_to_the_precision_of_all_scenes_and_of_all_but_one(example):
    """Their mean is the mAP exactly, and each tells what its scene adds, against leaving it out for real."""
    _, scenes, detector, precision = modules(example, "scenes", "detector", "average_precision")
    items = scenes.load("test", count=50).items
    outputs = noisy(detector, items, 1)
    scores = precision.score(outputs, items)["mAP"]
    without = []
    for left in range(3):
        stays = torch.arange(50) != left
        without.append(float(precision.score(outputs[stays], items[stays])["mAP"].mean()))
    assert 0.2 < float(scores.mean()) < 0.95
    np.testing.assert_allclose(np.diff(without), -np.diff(scores[:3].numpy()) / 49, atol=1e-9)


def test_bounds_of_the_gate_are_those_of_resampled_scenes(example, monkeypatch):
    """The gate resamples scores; resampling the scenes themselves and ranking anew gives nearly the same bounds."""
    _, scenes, detector, precision = modules(example, "scenes", "detector", "average_precision")
    monkeypatch.setattr(precision, "LEAST", 0.2)  # fewer detections to rank anew, thirty times
    items = scenes.load("test", count=60).items
    both = [noisy(detector, items, seed) for seed in (1, 2)]
    scores = [precision.score(outputs, items)["mAP"].numpy() for outputs in both]
    estimate = of_scores("mAP", None, scores, 0.05)
    random = np.random.default_rng(0)
    drawn = []
    for _ in range(30):
        chosen = torch.from_numpy(random.integers(0, 60, 60))
        values = [float(precision.score(outputs[chosen], items[chosen])["mAP"].mean()) for outputs in both]
        drawn.append(values[0] - values[1])
    width = (estimate.interval[1] - estimate.interval[0]) / 2 / 1.645
    assert 0.6 < np.std(drawn) / width < 1.6


def test_detector_runs_through_the_stages_and_its_precision_is_judged(example):
    from compression_gate.stages import benchmark, gate

    suite, *_ = modules(example)
    suite.edit(task__data_args={"count": 200}, train__epochs=1, benchmark__budget_s=0.5)
    suite.steps(distillation={"epochs": 1})
    found = suite.run()
    assert set(found.models["candidate"].metrics) == {"mAP"}
    benchmark.run(suite.path)
    verdict = gate.run(suite.path)
    check = next(check for check in verdict.checks if check.rule == "precision")
    assert check.n == 200
    assert check.observed == pytest.approx(found.models["candidate"].metrics["mAP"].value)
    assert check.interval is not None
