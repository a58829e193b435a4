"""Norms are taken anew where a step changed what they see, and nowhere else."""

from __future__ import annotations

import pytest

from compression_gate.methods import renorming
from compression_gate.methods.magnitude_pruning import MagnitudePruning
from compression_gate.modules.norms import Reestimation


def test_a_model_without_norms_is_asked_nothing(tiny, monkeypatch):
    suite = tiny("lenet")
    sparse = suite.apply(MagnitudePruning(sparsity=0.5))
    for name in ("reestimate", "outputs_distance"):
        monkeypatch.setattr(renorming, name, lambda *arguments, **more: pytest.fail("called"))
    assert renorming.renormed(sparse, suite.reference, suite.task, 0) == Reestimation()


def test_norms_are_taken_anew_once_the_answers_differ(tiny):
    suite = tiny("resnet")
    assert renorming.renormed(suite.reference, suite.reference, suite.task, 0) == Reestimation()
    sparse = suite.apply(MagnitudePruning(sparsity=0.5))
    assert len(renorming.renormed(sparse, suite.reference, suite.task, 0).norms) == 6
