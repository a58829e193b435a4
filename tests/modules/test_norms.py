"""Statistics taken anew: those of the data as the changed model sees them, and nothing else is touched."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn

from compression_gate.modules import norms
from compression_gate.modules.norms import norms_of, reestimate
from compression_gate.modules.surgery import state_digest
from compression_gate.records.params import Params
from compression_gate.tasks.task import open_task

CODE = """
import torch
from torch import nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.drop = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5)
        self.second, self.last, self.head = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4, momentum=0.3), nn.Linear(4, 3)
        self.idle = nn.BatchNorm1d(3)

    def forward(self, images):
        features = self.drop(self.norm(self.first(images)).relu())
        return self.head(self.last(self.second(features)).relu().mean((2, 3)))


def load(split):
    random = torch.Generator().manual_seed(len(split))
    count = {"train": 300, "test": 50}[split]
    return [(torch.randn(1, 6, 6, generator=random) * 3 + 5, index % 3) for index in range(count)]
"""


@pytest.fixture
def task(tmp_path, monkeypatch):
    (tmp_path / "model_of_norm_tests.py").write_text(CODE)
    monkeypatch.syspath_prepend(str(tmp_path))
    own = {"model": "model_of_norm_tests:Net", "data": "model_of_norm_tests:load"}
    return open_task(Params.model_validate({"task": own}), tmp_path)


def test_means_and_variances_are_those_of_the_train_split(task, monkeypatch):
    monkeypatch.setattr(norms, "BATCH_SIZE", 10_000)
    model = task.build_model()
    found = reestimate(model, task, seed=0)
    (batch,) = task.batches("train", 10_000)
    with torch.no_grad():
        values = model.first(batch.inputs).movedim(1, -1).reshape(-1, 4)
    assert torch.allclose(model.norm.running_mean, values.mean(0), rtol=1e-4)
    assert torch.allclose(model.norm.running_var, values.var(0), rtol=1e-4)
    assert (found.norms, found.examples) == (("norm", "last", "idle"), len(task.split("train")))
    assert found.seconds > 0


def test_nothing_else_changes_and_dropout_stays_off(task):
    model, again = task.build_model(), task.build_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    momenta = {name: norm.momentum for name, norm in norms_of(model).items()}
    reestimate(model, task, seed=0)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {f"{name}.running_{kind}" for name in ("norm", "last") for kind in ("mean", "var")}
    assert not any(module.training for module in model.modules())
    assert {name: norm.momentum for name, norm in norms_of(model).items()} == momenta
    reestimate(again, task, seed=0)
    assert state_digest(again) == state_digest(model)


def test_data_that_draw_their_noise_give_the_same_statistics_every_time(task):
    split = task.split("train")
    noisy = [*split.dataset]

    class Noisy:
        def __len__(self):
            return len(noisy)

        def __getitem__(self, index):
            return noisy[index][0] + torch.randn(()), noisy[index][1]

    task.splits["train"] = dataclasses.replace(split, dataset=Noisy())
    model, again = task.build_model(), task.build_model()
    reestimate(model, task, seed=0)
    reestimate(again, task, seed=0)
    assert state_digest(again) == state_digest(model)


def test_only_so_many_examples_are_read_in_full_batches(task, monkeypatch):
    monkeypatch.setattr(norms, "BATCH_SIZE", 32)
    monkeypatch.setattr(norms, "MOST_EXAMPLES", 60)
    assert reestimate(task.build_model(), task, seed=0).examples == 64
    monkeypatch.setattr(norms, "MOST_EXAMPLES", 10_000)
    length = len(task.split("train"))
    assert reestimate(task.build_model(), task, seed=0).examples == length - length % 32


def test_without_norms_no_example_is_read(task, monkeypatch):
    model = nn.Sequential(nn.Linear(36, 3), nn.LayerNorm(3), nn.BatchNorm1d(3, track_running_stats=False))
    monkeypatch.setattr(type(task), "batches", lambda *arguments, **more: pytest.fail("read"))
    found = reestimate(model, task, seed=0)
    assert (found.norms, found.examples, found.seconds) == ((), 0, 0.0)


def test_a_model_that_fails_gets_its_norms_back_in_order(task):
    model = task.build_model()
    model.head = nn.Linear(5, 3)
    with pytest.raises(Exception, match="raised RuntimeError"):
        reestimate(model, task, seed=0)
    assert [norm.momentum for norm in norms_of(model).values()] == [0.1, 0.3, 0.1]
    assert not model.norm.training
