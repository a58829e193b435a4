"""What a method may say about its work."""

from __future__ import annotations

from compression_gate.methods.base import Notes
from compression_gate.tasks.training import Epoch

ROW = Epoch(epoch=1, loss=0.5, validation_loss=0.6, validation_quality=None, seconds=1.0)


def test_a_label_that_is_taken_gets_a_number():
    notes = Notes()
    for _ in range(3):
        notes.add_curve("fine-tuning", [ROW])
    assert list(notes.curves) == ["fine-tuning", "fine-tuning 2", "fine-tuning 3"]


def test_a_training_of_no_epochs_leaves_no_curve():
    notes = Notes()
    notes.add_curve("fine-tuning", [])
    assert notes.curves == {}
