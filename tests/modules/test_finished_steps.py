"""Finished parts are read back by their own key alone, and one that is damaged is taken anew."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

from compression_gate.modules.finished_steps import FinishedParts
from compression_gate.records.base import Record


class Told(Record):
    text: str


@pytest.fixture
def parts(tmp_path):
    return FinishedParts(tmp_path / "parts", Told, "a part")


def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2)).eval()


def test_a_part_is_read_back_by_its_key(parts):
    made = model()
    parts.write("one", made, nn.Sequential(nn.Linear(3, 2)), Told(text="done"))
    found, record = parts.read("one", nn.Sequential(nn.Linear(3, 2)))
    assert torch.equal(found[0].weight, made[0].weight)
    assert record == Told(text="done")
    assert parts.read("other", nn.Sequential(nn.Linear(3, 2))) is None


def test_what_was_frozen_comes_back_frozen_and_nothing_else(parts):
    made, factory = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 2)), nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    made[0].weight.requires_grad_(False)
    factory[1].bias.requires_grad_(False)
    parts.write("one", made.eval(), factory, Told(text="done"))
    found, _ = parts.read("one", factory)
    assert {name for name, weight in found.named_parameters() if not weight.requires_grad} == {"0.weight"}


DAMAGES = [("model.safetensors", b""), ("step.json", b"{}"), ("step.json", b"\xff"), ("frozen.json", b"[]")]


@pytest.mark.parametrize(("name", "content"), DAMAGES)
def test_a_damaged_part_is_none_and_named(parts, caplog, name, content):
    parts.write("one", model(), nn.Sequential(nn.Linear(3, 2)), Told(text="done"))
    (parts.folder / "one" / name).write_bytes(content)
    with caplog.at_level(logging.WARNING, "compression_gate"):
        assert parts.read("one", nn.Sequential(nn.Linear(3, 2))) is None
    assert "a part that was finished before cannot be read again" in caplog.text


def test_nothing_is_left_behind_the_whole(parts):
    parts.write("one", model(), nn.Sequential(nn.Linear(3, 2)), Told(text="done"))
    parts.clear()
    parts.clear()
    assert not parts.folder.exists()
