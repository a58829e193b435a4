"""Candidates that are slower by a known share."""

from __future__ import annotations

from pathlib import Path

import pytest

from compression_gate.measurers import known_speed


@pytest.fixture
def number_of(monkeypatch):
    """How many activations a candidate is given, by what so many of them are measured to cost."""
    monkeypatch.setattr(known_speed, "model_file", lambda runtime, shape, more, folder: folder / str(more))

    def number(ratio_of, slowed):
        path = known_speed.slowed_file(
            "torch", known_speed.SHAPES["small"], slowed, Path(), lambda path: ratio_of(int(path.name))
        )
        return int(path.name)

    return number


@pytest.mark.parametrize(
    ("ratio_of", "slowed", "expected"),
    [
        pytest.param(lambda more: 1 + 0.01 * more, 0.05, 6, id="each costs the same"),
        pytest.param(lambda more: 1 + 0.03 * more, 0.05, 2, id="one is too few and two are too many"),
        pytest.param(lambda more: 1.02 + 0.01 * more, 0.05, 4, id="the first costs more"),
        pytest.param(lambda more: 1 + 0.02 * max(0, more - 2), 0.05, 5, id="the first two cost nothing"),
        pytest.param(lambda more: min(1.06, 1 + 0.06 * more) + 0.001 * more, 0.05, 1, id="others cost next to nothing"),
        pytest.param(lambda more: 1 + 0.0005 * more, 0.02, 46, id="many"),
        pytest.param(lambda more: 2.0, 0.05, 1, id="even one is far too much"),
    ],
)
def test_a_candidate_is_slowed_by_its_share_and_hardly_more(number_of, ratio_of, slowed, expected):
    assert number_of(ratio_of, slowed) == expected


def test_what_was_under_its_share_when_it_was_measured_is_never_given(number_of):
    """Where a measurement falls short though more activations came short too: as noise has it."""
    ratios = {8: 1.1, 5: 1.075, 4: 1.049}
    assert number_of(ratios.__getitem__, 0.05) == 5


def test_a_candidate_of_many_activations_is_loaded_by_openvino(tmp_path):
    """Which takes 32 in a row into one layer, and refuses a model with more."""
    pytest.importorskip("openvino", reason="openvino is not installed: pip install 'compression-gate[openvino]'")
    from compression_gate.runtimes.openvino import OpenVino

    shape = known_speed.Shape(rows=1, width=8, layers=4)
    path = known_speed.model_file("openvino", shape, 90, tmp_path)
    assert path.read_bytes().count(b"Tanh") >= 90
    assert OpenVino().load(path, threads=1)(shape.inputs()).shape == (1, 8)
