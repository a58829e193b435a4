"""Weights from files: on the CPU whatever they were saved on, ties kept, code never run, misfits named."""

import os
import pickle
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from compression_gate.errors import TaskError
from compression_gate.modules.checkpoints import adopt_weights, load_reference, read_state, save_reference
from compression_gate.records.params import read_params
from compression_gate.tasks.task import open_task


class Tied(nn.Module):
    """Reads and writes words with one table."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.out = nn.Linear(4, 7, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, ids):
        return self.out(self.embed(ids))


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def equal(first, second):
    return all(torch.equal(value, second.state_dict()[name]) for name, value in first.state_dict().items())


def relocated(path):
    """Make a checkpoint say that its tensors were saved on a GPU, as `torch.save` does there."""
    short, long = b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"
    with zipfile.ZipFile(path) as archive:
        parts = [(item, archive.read(item)) for item in archive.infolist()]
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for item, content in parts:
            archive.writestr(item, content.replace(short, long) if item.filename.endswith("data.pkl") else content)


FORMS = {
    "state.safetensors": lambda state, path: save_file(state, path),
    "state.pt": torch.save,
    "nested.pt": lambda state, path: torch.save({"state_dict": state, "epoch": 3}, path),
    "model_state.pt": lambda state, path: torch.save({"model_state_dict": state}, path),
    "legacy.pt": lambda state, path: torch.save(state, path, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("name", FORMS)
def test_weights_are_adopted_from_every_form(tmp_path, name):
    saved, model = network(1), network(2)
    FORMS[name](saved.state_dict(), tmp_path / name)
    adopt_weights(model, tmp_path / name)
    assert equal(saved, model)


def test_checkpoint_saved_on_a_gpu_is_read_on_the_cpu(tmp_path):
    saved, model, path = network(1), network(2), tmp_path / "gpu.pt"
    torch.save(saved.state_dict(), path)
    relocated(path)
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):  # it does say so: plainly loaded, it needs a GPU
            torch.load(path, weights_only=True)
    adopt_weights(model, path)
    assert equal(saved, model)
    assert {value.device.type for value in model.state_dict().values()} == {"cpu"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device to save on")
def test_checkpoint_truly_saved_on_a_gpu_is_read_on_the_cpu(tmp_path):
    saved, model, path = network(1), network(2), tmp_path / "gpu.pt"
    torch.save(saved.to("cuda").state_dict(), path)
    adopt_weights(model, path)
    assert equal(saved.cpu(), model)


class Hostile:
    """Runs a command while it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path, new):
    path, mark = tmp_path / "weights.pt", tmp_path / "it_ran"
    torch.save({"weight": torch.zeros(1), "extra": Hostile(mark)}, path, _use_new_zipfile_serialization=new)
    with pytest.raises(
        TaskError, match=r"weights\.pt: holds more than tensors, and loading it would run its code: save"
    ):
        read_state(path)
    assert not mark.exists()


def test_plain_pickle_that_would_run_code_is_refused_and_does_not_run(tmp_path):
    path, mark = tmp_path / "weights.pt", tmp_path / "it_ran"
    path.write_bytes(pickle.dumps(Hostile(mark)))
    with pytest.raises(TaskError, match=r"weights\.pt: "):
        read_state(path)
    assert not mark.exists()


def test_whole_pickled_module_is_refused_with_the_way_out(tmp_path):
    torch.save(network(), tmp_path / "model.pt")
    with pytest.raises(TaskError, match=r"holds more than tensors.*save `model\.state_dict\(\)` instead"):
        read_state(tmp_path / "model.pt")


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.95])
def test_file_cut_short_is_told(tmp_path, name, share):
    FORMS["state.safetensors" if name.endswith("safetensors") else "state.pt"](network().state_dict(), tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    with pytest.raises(TaskError, match=rf"task\.weights: .*{name}: "):
        read_state(tmp_path / name)


def test_missing_file_is_told(tmp_path):
    with pytest.raises(TaskError, match=r"task\.weights: .*none\.pt: no such file: paths start at the suite's folder"):
        read_state(tmp_path / "none.pt")


@pytest.mark.parametrize("content", [[torch.zeros(1)], {"a": 1}, torch.zeros(2)], ids=["list", "numbers", "tensor"])
def test_file_that_holds_no_state_dict_is_told(tmp_path, content):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(TaskError, match=r"expected a state dict of tensors, got "):
        read_state(tmp_path / "weights.pt")


def test_a_damaged_file_is_told_by_the_key_that_was_asked(tmp_path):
    torch.save({"state_dict": {"a": 1}}, tmp_path / "weights.pt")
    with pytest.raises(TaskError, match=r"^teacher\.weights: "):
        read_state(tmp_path / "weights.pt", "teacher")


# How the names or shapes in the file differ, and what is said.
MISFITS = [
    (lambda state: {f"module.{name}": value for name, value in state.items()}, r"not in the file: 0\.weight"),
    (lambda state: {f"module.{name}": value for name, value in state.items()}, r"not in the model: module\.\d\."),
    (lambda state: state | {"head.weight": torch.zeros(1)}, r"got: not in the model: head\.weight: save"),
    (
        lambda state: {name: value for name, value in state.items() if name != "2.bias"},
        r"got: not in the file: 2\.bias",
    ),
    (lambda state: state | {"0.weight": torch.zeros(5, 3)}, r"0\.weight: expected shape \(4, 3\), got \(5, 3\)"),
    (lambda state: {}, r"and \d more"),
]


@pytest.mark.parametrize(("change", "expected"), MISFITS)
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
def test_foreign_keys_and_shapes_are_named(tmp_path, name, change, expected):
    FORMS["state.safetensors" if name.endswith("safetensors") else "state.pt"](
        change(network().state_dict()), tmp_path / name
    )
    with pytest.raises(
        TaskError, match=rf"task\.weights: .*{name}: expected the state dict of task\.model.*{expected}"
    ):
        adopt_weights(network(), tmp_path / name)


def test_half_precision_weights_are_taken_in_the_models_own(tmp_path):
    saved, model = network(1), network(2)
    state = {name: value.half() if value.is_floating_point() else value for name, value in saved.state_dict().items()}
    torch.save(state, tmp_path / "half.pt")
    adopt_weights(model, tmp_path / "half.pt")
    assert model[0].weight.dtype == torch.float32
    assert torch.allclose(model[0].weight, saved[0].weight, atol=1e-3)


@pytest.mark.parametrize("kept", [("embed.weight", "out.weight"), ("embed.weight",), ("out.weight",)])
def test_tied_weights_may_be_stored_once_or_twice(tmp_path, kept):
    saved, model = Tied(), Tied()
    torch.save({name: saved.state_dict()[name] for name in kept}, tmp_path / "weights.pt")
    adopt_weights(model, tmp_path / "weights.pt")
    assert torch.equal(model.embed.weight, saved.embed.weight)
    assert model.out.weight is model.embed.weight


def test_reference_keeps_its_ties_and_stores_them_once(tmp_path):
    model = Tied()
    save_reference(model, tmp_path)
    assert len(load_file(tmp_path / "model.safetensors")) == 1
    again = Tied()
    adopt_weights(again, tmp_path / "model.safetensors")
    assert torch.equal(again.embed.weight, model.embed.weight)
    assert again.out.weight is again.embed.weight


def test_same_weights_same_bytes(tmp_path):
    contents = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_reference(network(3), tmp_path / name)
        contents.append((tmp_path / name / "model.safetensors").read_bytes())
    assert contents[0] == contents[1]


@pytest.mark.parametrize("normalize", [False, True])
def test_reference_that_was_saved_is_rebuilt(suite, tmp_path, normalize):
    from compression_gate.stages.train import normalized

    suite.edit("train.normalize", normalize)
    params = read_params(suite.path)
    task = open_task(params, suite.path)
    model = normalized(task.build_model(), task, params).eval()
    save_reference(model, tmp_path)
    again = load_reference(task, tmp_path, normalize=normalize)
    inputs = task.example_inputs(4)
    assert torch.equal(model(inputs), again(inputs))
    assert not again.training


def test_reference_of_another_model_says_to_train_again(suite, tmp_path):
    save_reference(network(), tmp_path)
    task = open_task(read_params(suite.path), suite.path)
    with pytest.raises(TaskError, match=r"does not fit what task\.model builds: .*run the train stage"):
        load_reference(task, tmp_path, normalize=False)
