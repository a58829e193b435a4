"""`compress`: the chain of steps, measured step by step, and a candidate that is whole or not there."""

import itertools
from types import SimpleNamespace

import pytest
import torch

from compression_gate.artifacts import workbench
from compression_gate.errors import CompressionGateError, MetricsError, ParamsError, StaleError
from compression_gate.methods import chain, renorming
from compression_gate.modules.norms import Reestimation
from compression_gate.records.artifact import Artifact
from compression_gate.records.metrics import CompressionRecord
from compression_gate.records.params import read_params
from compression_gate.records.provenance import params_digests
from compression_gate.stages import compress, prepare, train
from compression_gate.tasks import training

CANDIDATE = "models/candidate"


@pytest.fixture
def trained(suite):
    """A suite with a reference."""
    prepare.run(suite.path)
    train.run(suite.path)
    return suite


def test_candidate_is_written_whole_and_each_step_is_measured(trained):
    record = compress.run(trained.path)
    read = CompressionRecord.read(trained.path / "reports" / "compression.json")
    assert read.model_dump(mode="json") == record.model_dump(mode="json")
    artifact = Artifact.open(trained.path / CANDIDATE)
    reference = Artifact.open(trained.path / "models" / "reference")
    assert (artifact.role, artifact.parent_digest, artifact.recipe_digest) == (
        "candidate",
        reference.digest,
        record.recipe_digest,
    )
    assert {"model.safetensors", "structure.json", "model.onnx"} <= artifact.files.keys()
    assert record.size_bytes == artifact.size_bytes
    made = params_digests("compress", read_params(trained.path))
    assert artifact.params_digests == record.params_digests == made
    pruning, quantization = record.steps
    assert (pruning.method, quantization.method) == ("structured_pruning", "static_quantization")
    assert pruning.effective
    assert quantization.effective
    assert pruning.parameters < record.reference.parameters
    assert pruning.macs < record.reference.macs
    assert pruning.quality_before == record.reference.quality
    assert quantization.quality_before == pruning.quality
    assert pruning.covered
    for step in (record.reference, pruning, quantization):
        assert sum(step.layer_bytes.values()) == step.state_bytes
    assert pruning.layer_bytes.keys() == record.reference.layer_bytes.keys()
    assert list(trained.path.joinpath("models").glob(".*")) == []


def test_training_inside_a_step_leaves_its_curve_in_the_record(trained):
    trained.edit("compress.steps", [{"method": "distillation", "epochs": 2}, {"method": "structured_pruning"}])
    distillation, pruning = compress.run(trained.path).steps
    assert [point.epoch for point in distillation.curves["distillation"]] == [1, 2]
    assert all(point.validation_quality is not None for point in distillation.curves["distillation"])
    assert pruning.curves == {}


NARROW = """

def narrow():
    return Net(4)
"""


def test_another_architecture_and_an_ensemble_are_written_reloaded_and_exported(trained):
    """The factory of structure.json is then not the task's; a teacher of its own is trained once for both members."""
    trained.append(NARROW)
    taught = {"method": "distillation", "epochs": 1, "teacher": {"train": {"epochs": 1, "seed": 2}}}
    student = {**taught, "student": {"model": f"{trained.module}:narrow"}}
    pruned = {"method": "structured_pruning"}
    ensemble = {"method": "ensemble", "members": [[student], [pruned, taught]]}
    trained.edit("compress.steps", [ensemble, {"method": "static_quantization"}])
    record = compress.run(trained.path)
    assert all(step.effective for step in record.steps)
    curves = record.steps[0].curves
    assert list(curves) == [f"members.{n}.{label}" for n in (0, 1) for label in ("teacher", "distillation")]
    assert Artifact.open(trained.path / CANDIDATE).recipe_digest == record.recipe_digest


def test_same_seed_same_digest_in_another_folder(trained):
    compress.run(trained.path)
    before = Artifact.open(trained.path / CANDIDATE)
    elsewhere = trained.path.rename(trained.path.parent / "elsewhere")
    compress.run(elsewhere)
    assert Artifact.open(elsewhere / CANDIDATE) == before


def test_reference_is_left_as_it_was(trained):
    before = Artifact.open(trained.path / "models" / "reference")
    compress.run(trained.path)
    assert Artifact.open(trained.path / "models" / "reference") == before


def test_no_steps_ship_the_reference_itself(trained):
    trained.edit("compress.steps", [])
    record = compress.run(trained.path)
    assert record.steps == ()
    files = [Artifact.open(trained.path / "models" / name).files["model.onnx"] for name in ("reference", "candidate")]
    assert files[0] == files[1]


def test_effect_that_the_format_cannot_show_is_warned_of_by_name(trained):
    rounding = {"method": "weight_only_quantization", "bits": 3}
    trained.edit("compress.steps", [{"method": "magnitude_pruning", "sparsity": 0.5}, rounding])
    record = compress.run(trained.path)
    assert record.warnings == (
        "magnitude_pruning: zeros do not make onnx files smaller",
        "integers of 3 bits take 4 each in onnx files for onnxruntime",
    )
    assert all("integers of 3 bits in the onnx file, computed in float32" in line for line in record.integers)
    assert len(record.integers) == len({line.partition(" ")[0] for line in record.integers}) > 0
    assert record.steps[0].nonzeros < record.reference.nonzeros


# Steps that cannot be: what, with which error, and what is said.
BAD_STEPS = [
    ([{"method": "structured_prunning"}], r"structured_prunning.*did you mean 'structured_pruning'"),
    ([{"method": "structured_pruning", "ratio": 0.5}], r"'?ratio'?"),
    ([{"method": "structured_pruning", "pruning_ratio": 2}], r"pruning_ratio.*2"),
    ([{"method": "static_quantization", "bits": "8"}], r"bits.*'8'"),
    (
        [{"method": "static_quantization"}, {"method": "structured_pruning", "pruning_ratio": 0.5}],
        r"structured_pruning",
    ),
]


@pytest.mark.parametrize(("steps", "expected"), BAD_STEPS)
def test_recipe_that_cannot_be_is_told_before_anything_is_done(trained, steps, expected):
    trained.edit("compress.steps", steps)
    with pytest.raises(ParamsError, match=expected):
        compress.run(trained.path)
    assert not (trained.path / CANDIDATE).exists()


def test_method_that_can_treat_no_layer_says_so_with_its_place_and_leaves_nothing(suite):
    suite.append("\n\nclass Scale(nn.Module):\n    def __init__(self):\n        super().__init__()\n")
    suite.append("        self.scale = nn.Parameter(torch.ones(3))\n\n")
    suite.append("    def forward(self, images):\n        return images.flatten(1)[:, :3] * self.scale\n")
    suite.edit("task.model", f"{suite.module}:Scale")
    prepare.run(suite.path)
    train.run(suite.path)
    with pytest.raises(CompressionGateError, match=r"^params\.yaml: compress\.steps\.0: structured_pruning: "):
        compress.run(suite.path)
    (suite.path / "found.yaml").write_text("schema: 1\nsteps: [{method: structured_pruning}]\n", encoding="utf-8")
    suite.edit("compress", {"recipe": "found.yaml"})
    with pytest.raises(CompressionGateError, match=r"^found\.yaml: steps\.0: structured_pruning: "):
        compress.run(suite.path)
    assert not (suite.path / CANDIDATE).exists()
    assert not (suite.path / "reports" / "compression.json").exists()


def test_reference_that_was_changed_behind_its_record_is_stale(trained):
    path = trained.path / "models" / "reference" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    with pytest.raises(StaleError, match=r"model\.safetensors: expected the files that artifact\.json lists"):
        compress.run(trained.path)


def test_missing_reference_says_what_to_run(suite):
    with pytest.raises(MetricsError, match=r"models/reference/artifact\.json: missing: run the stage"):
        compress.run(suite.path)


def test_old_candidate_stays_whole_until_the_new_one_is(trained, monkeypatch):
    compress.run(trained.path)
    before = Artifact.open(trained.path / CANDIDATE)

    def interrupted(*arguments, **more):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(workbench, "exported_artifact", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compress.run(trained.path)
    assert Artifact.open(trained.path / CANDIDATE) == before
    assert list(trained.path.joinpath("models").glob(".*")) == []


NORMED = """

class Normed(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.first = nn.Conv2d(1, 8, 3, bias=False), nn.BatchNorm2d(8)
        self.body, self.second = nn.Conv2d(8, 16, 3, bias=False), nn.BatchNorm2d(16)
        self.tail, self.third = nn.Conv2d(16, 16, 3, bias=False), nn.BatchNorm2d(16)
        self.head = nn.Linear(16, 3)

    def forward(self, images):
        features = self.first(self.stem(images)).relu()
        features = self.second(self.body(features)).relu()
        return self.head(self.third(self.tail(features)).relu().mean((2, 3)))
"""


@pytest.fixture
def normed(suite):
    """A suite whose trained model has batch norms."""
    suite.append(NORMED)
    suite.edit("task.model", f"{suite.module}:Normed")
    suite.edit("train.learning_rate", 0.02)
    prepare.run(suite.path)
    train.run(suite.path)
    return suite


def test_norms_are_taken_anew_behind_pruning_which_is_worth_accuracy(normed, monkeypatch):
    normed.edit("compress.steps", [{"method": "structured_pruning", "pruning_ratio": 0.5}])
    (with_norms,) = compress.run(normed.path).steps
    with monkeypatch.context() as patch:
        patch.setattr(renorming, "reestimate", lambda *arguments, **more: Reestimation())
        (without,) = compress.run(normed.path).steps
    assert (with_norms.norms_reestimated, without.norms_reestimated) == (3, 0)
    assert 0 < with_norms.norms_seconds <= with_norms.seconds
    assert with_norms.quality["accuracy"] > without.quality["accuracy"]


# Steps behind which the statistics stay: what follows, norms taken anew by it.
LEFT = [
    ({"method": "static_quantization"}, 0),  # its ranges were calibrated with them
    ({"method": "batchnorm_folding", "ignore": ["third"]}, 0),  # the outputs stay
    ({"method": "magnitude_pruning", "sparsity": 0.0}, 0),  # nothing changed: taking them anew would be an effect
    ({"method": "magnitude_pruning", "sparsity": 0.5}, 3),
]


@pytest.mark.parametrize(("step", "taken"), LEFT)
def test_norms_are_taken_anew_only_where_a_step_changed_what_they_see(normed, step, taken):
    normed.edit("compress.steps", [step])
    (record,) = compress.run(normed.path).steps
    assert record.norms_reestimated == taken
    assert record.effective == (step.get("sparsity") != 0.0)


def test_tied_weights_stay_tied_and_dicts_objects_and_lengths_pass_through(suite):
    """A model that takes a dict, returns an object with logits, ties its weights and comes trained."""
    suite.append(
        """

class Answer:
    def __init__(self, logits):
        self.logits = logits


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(12, 8)
        self.mix = nn.Linear(8, 8)
        self.unembed = nn.Linear(8, 12, bias=False)
        self.unembed.weight = self.embed.weight
        self.out = nn.Linear(12, 3)

    def forward(self, ids, mask):
        mask = mask.unsqueeze(-1).float()
        mean = (self.embed(ids) * mask).sum(1) / mask.sum(1)
        return Answer(self.out(self.unembed(torch.relu(self.mix(mean)))))


class Sentences(torch.utils.data.Dataset):
    def __init__(self, count, seed):
        random = torch.Generator().manual_seed(seed)
        self.ids = None
        self.words = [torch.randint(1, 12, (3 + n % 5,), generator=random) for n in range(count)]

    def __len__(self):
        return len(self.words)

    def __getitem__(self, index):
        return {"ids": self.words[index]}, int(self.words[index].sum()) % 3


def sentences(split):
    return Sentences({"train": 200, "test": 60}[split], len(split))


def padded(examples):
    ids = nn.utils.rnn.pad_sequence([item["ids"] for item, _ in examples], batch_first=True)
    return {"ids": ids, "mask": ids > 0}, torch.tensor([target for _, target in examples])
"""
    )
    task = {"model": "Words", "data": "sentences", "collate": "padded"}
    suite.edit("task", {name: f"{suite.module}:{target}" for name, target in task.items()})
    suite.edit("task.weights", "from_model")
    suite.edit("task.dynamic", {"ids": {1: "length"}, "mask": {1: "length"}})
    suite.edit("prepare.allow", ["leaks", "duplicates"])
    suite.edit("compress.steps", [{"method": "magnitude_pruning", "sparsity": 0.5}])
    prepare.run(suite.path)
    train.run(suite.path)
    compress.run(suite.path)
    from compression_gate.runtimes.onnx_runtime import OnnxRuntime

    session = OnnxRuntime().load(suite.path / CANDIDATE / "model.onnx", 1)
    for length in (2, 7):
        ids = torch.randint(1, 12, (3, length))
        assert session({"ids": ids.numpy(), "mask": (ids > 0).numpy()}).shape == (3, 3)


def test_a_chain_that_was_killed_goes_on_behind_the_last_finished_step(trained, monkeypatch):
    """The first step is not taken again, and what comes out is what an undisturbed run gives."""
    trained.edit(
        "compress.steps",
        [{"method": "distillation", "epochs": 1}, {"method": "structured_pruning"}, {"method": "static_quantization"}],
    )
    whole = compress.run(trained.path)
    calls = counted_applications(monkeypatch, fail_at="StructuredPruning")
    with pytest.raises(KeyboardInterrupt):
        compress.run(trained.path)
    assert calls == ["Distillation", "StructuredPruning"]
    calls = counted_applications(monkeypatch)
    record = compress.run(trained.path)
    assert calls == ["StructuredPruning", "StaticQuantization"]
    assert [step.method for step in record.steps] == [step.method for step in whole.steps]
    assert [step.quality for step in record.steps] == [step.quality for step in whole.steps]
    assert not (trained.path / compress.CHECKPOINTS / "steps").exists()


def test_seconds_of_a_step_that_goes_on_behind_a_kill_are_those_of_all_its_epochs(trained, monkeypatch):
    trained.edit("compress.steps", [{"method": "distillation", "epochs": 3}])
    validated, epochs = training.validated, iter(range(3))

    def killed(*given):
        if next(epochs) == 2:
            raise KeyboardInterrupt
        return validated(*given)

    with monkeypatch.context() as patch:
        patch.setattr(training, "validated", killed)
        patch.setattr(training, "time", SimpleNamespace(monotonic=itertools.count(step=1000).__next__))
        with pytest.raises(KeyboardInterrupt):
            compress.run(trained.path)
    (step,) = compress.run(trained.path).steps
    (curve,) = step.curves.values()
    assert [point.seconds for point in curve[:2]] == [1000, 1000]
    assert step.seconds >= 2000


def test_a_finished_step_is_not_taken_for_another_recipe_or_when_it_is_damaged(trained, monkeypatch):
    steps = [{"method": "distillation", "epochs": 1}, {"method": "structured_pruning"}]
    trained.edit("compress.steps", steps)
    counted_applications(monkeypatch, fail_at="StructuredPruning")
    with pytest.raises(KeyboardInterrupt):
        compress.run(trained.path)
    (weights,) = (trained.path / compress.CHECKPOINTS / "steps").glob("*/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:100])
    calls = counted_applications(monkeypatch, fail_at="StructuredPruning")
    with pytest.raises(KeyboardInterrupt):
        compress.run(trained.path)
    trained.edit("compress.steps", [{**steps[0], "alpha": 0.5}, steps[1]])
    assert calls == ["Distillation", "StructuredPruning"]
    calls = counted_applications(monkeypatch)
    compress.run(trained.path)
    assert calls == ["Distillation", "StructuredPruning"]


def counted_applications(monkeypatch, fail_at=None):
    """The kinds of the steps that are applied from now on, in order; one of them is killed as it begins."""
    calls, steps_of = [], chain.steps_of

    def counting(method):
        def apply(model, context):
            calls.append(type(method).__name__)
            if calls[-1] == fail_at:
                raise KeyboardInterrupt
            return type(method).apply(method, model, context)

        object.__setattr__(method, "apply", apply)
        return method

    monkeypatch.setattr(compress, "steps_of", lambda *asked: [counting(method) for method in steps_of(*asked)])
    return calls
