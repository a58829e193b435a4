"""Whole suites of users, from an empty folder to the verdict, through the commands a user types and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

MODEL = """
import torch

WIDTH = 64

class Net(torch.nn.Sequential):
    def __init__(self, width=WIDTH):
        super().__init__(
            torch.nn.Linear(16, width), torch.nn.ReLU(), torch.nn.Linear(width, width), torch.nn.ReLU(),
            torch.nn.Linear(width, 3),
        )
"""
DATA = """
import torch

SIZES = {"train": 3000, "test": 2000}

class Blobs(torch.utils.data.Dataset):
    def __init__(self, split):
        generator = torch.Generator().manual_seed(len(split))
        centres = torch.randn(3, 16, generator=torch.Generator().manual_seed(7)) * 2
        self.targets = torch.randint(0, 3, (SIZES[split],), generator=generator)
        self.inputs = centres[self.targets] + torch.randn(SIZES[split], 16, generator=generator)

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        return self.inputs[index], int(self.targets[index])

def load(split):
    return Blobs(split)
"""
TWELVE_LINES = """\
task:
  model: shop.net:Net
  data: shop.blobs:load
train: {epochs: 3, batch_size: 64}
compress:
  steps:
    - {method: structured_pruning, pruning_ratio: 0.25}
    - {method: static_quantization}
benchmark: {budget_s: 6}
gate:
  max_accuracy_drop: 0.05
  min_compression_ratio: 1.5
"""
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}


def command(folder: Path, *words: str, **options: object) -> subprocess.CompletedProcess[str]:
    """Type a command in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "compression_gate", *words],
        cwd=folder,
        env=ENVIRONMENT,
        text=True,
        capture_output=True,
        check=False,
        timeout=600,
        **options,  # type: ignore[call-overload]
    )


def git(folder: Path, *words: str) -> None:
    """Run git as somebody."""
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run(["git", *identity, *words], cwd=folder, check=True, capture_output=True)


def shop(folder: Path) -> Path:
    """Write a user's package with a model and data."""
    (folder / "shop").mkdir(parents=True)
    (folder / "shop" / "__init__.py").write_text("")
    (folder / "shop" / "net.py").write_text(MODEL)
    (folder / "shop" / "blobs.py").write_text(DATA)
    return folder


def verdict_of(folder: Path) -> dict[str, object]:
    """Read a suite's verdict."""
    return json.loads((folder / "reports" / "verdict.json").read_text())


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite of twelve lines that was run once and passed."""
    folder = shop(tmp_path_factory.mktemp("judged") / "suite")
    git(folder, "init", "-q")
    (folder / "params.yaml").write_text(TWELVE_LINES)
    done = command(folder, "init")
    assert done.returncode == 0, done.stderr
    done = command(folder, "run")
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture
def suite(judged: Path, tmp_path: Path) -> Path:
    """A copy of the judged suite to break."""
    return Path(shutil.copytree(judged, tmp_path / "suite", symlinks=True))


def edit(folder: Path, key: str, value: object) -> None:
    """Change one value of params.yaml."""
    path = folder / "params.yaml"
    values = yaml.safe_load(path.read_text())
    inner = values
    *parts, last = key.split(".")
    for part in parts:
        inner = inner.setdefault(part, {})
    inner[last] = value
    path.write_text(yaml.safe_dump(values, sort_keys=False))


def stamps(folder: Path) -> dict[str, str]:
    """What each stage last wrote, by stage, from DVC's lock."""
    lock = yaml.safe_load((folder / "dvc.lock").read_text())
    return {name: json.dumps(stage.get("outs"), sort_keys=True) for name, stage in lock["stages"].items()}


def ran(output: str) -> set[str]:
    """The stages that DVC says it ran."""
    return {line.split("'")[1] for line in output.splitlines() if line.startswith("Running stage")}


class TestTwelveLines:
    """A user's module, model and data by dotted path."""

    def test_every_file_of_the_contract_is_there(self, judged: Path) -> None:
        for name in (
            "models/reference/model.safetensors",
            "models/reference/model.onnx",
            "models/reference/artifact.json",
            "models/candidate/model.safetensors",
            "models/candidate/structure.json",
            "models/candidate/model.onnx",
            "models/candidate/artifact.json",
            *(f"reports/{name}" for name in ("data.json", "training.csv", "compression.json", "evaluation.json")),
            *(f"reports/{name}" for name in ("confusion.csv", "predictions.npz", "benchmark.json")),
            *(f"reports/{name}" for name in ("pytest_benchmark.json", "timings.npz", "verdict.json", "report.md")),
            *(f"reports/{name}" for name in ("report.html", "junit.xml", "plots/steps.csv")),
        ):
            assert (judged / name).is_file(), name

    def test_the_verdict_passes_and_says_how_sure_it_is(self, judged: Path) -> None:
        verdict = verdict_of(judged)
        accuracy = next(check for check in verdict["checks"] if check["metric"] == "accuracy")
        assert (verdict["status"], verdict["exit_code"]) == ("pass", 0)
        assert accuracy["n"] == 2000
        low, high = accuracy["interval"]
        assert low <= accuracy["change"] * -1 <= high or low <= accuracy["change"] <= high

    def test_a_second_run_runs_nothing(self, suite: Path) -> None:
        before = stamps(suite)
        done = command(suite, "run")
        assert done.returncode == 0, done.stderr
        assert ran(done.stderr) == set()
        assert stamps(suite) == before

    def test_a_tightened_limit_reruns_the_gate_alone_and_fails(self, suite: Path) -> None:
        edit(suite, "gate.min_compression_ratio", 500)
        done = command(suite, "run")
        assert done.returncode == 1, done.stdout + done.stderr
        assert ran(done.stderr) == {"gate", "report"}
        report = (suite / "reports" / "report.md").read_text()
        assert "rate" in report
        assert "500" in report

    def test_a_changed_constant_of_the_model_retrains(self, suite: Path) -> None:
        path = suite / "shop" / "net.py"
        path.write_text(path.read_text().replace("WIDTH = 64", "WIDTH = 80"))
        done = command(suite, "run", "--dry-run")
        assert done.returncode == 0, done.stderr
        assert "train" in ran(done.stderr)
        assert "prepare" not in ran(done.stderr)

    def test_a_source_that_is_not_declared_is_refused(self, suite: Path) -> None:
        path = suite / "dvc.yaml"
        path.write_text(path.read_text().replace("    - shop/net.py\n", ""))
        verdict = (suite / "reports" / "verdict.json").read_bytes()
        done = command(suite, "run")
        assert done.returncode == 2
        assert "shop/net.py" in done.stderr
        assert "init --refresh" in done.stderr
        assert (suite / "reports" / "verdict.json").read_bytes() == verdict
        assert command(suite, "init", "--refresh").returncode == 0
        assert "shop/net.py" in path.read_text()

    def test_a_crash_never_leaves_an_old_verdict(self, suite: Path) -> None:
        path = suite / "shop" / "blobs.py"
        path.write_text(path.read_text() + "\nraise RuntimeError('the shop is closed')\n")
        done = command(suite, "run")
        assert done.returncode == verdict_of(suite)["exit_code"] != 0
        assert verdict_of(suite)["status"] == "error"
        assert "the shop is closed" in (suite / "reports" / "report.md").read_text()
        assert command(suite, "check").returncode not in (0, 1)

    def test_a_crash_while_benchmarking_ends_in_four(self, suite: Path) -> None:
        path = suite / "shop" / "blobs.py"
        path.write_text(path.read_text().replace("def load(split):", "def load(split):\n    import os; os._exit(9)"))
        done = command(suite, "run")
        assert done.returncode == 4
        assert verdict_of(suite)["status"] == "error"

    def test_a_metric_that_was_not_produced_ends_in_four(self, suite: Path) -> None:
        edit(suite, "gate.rules", {"error": {"metric": "f1", "max_drop": 0.1}})
        edit(suite, "evaluate.metrics", ["accuracy"])
        done = command(suite, "run")
        assert done.returncode == 4, done.stdout + done.stderr
        assert any(check["reason"] == "missing_metric" for check in verdict_of(suite)["checks"])

    @pytest.mark.parametrize(
        "name", ["models/candidate/model.onnx", "reports/predictions.npz", "params.yaml", "shop/net.py"]
    )
    def test_check_refuses_what_changed_after_the_verdict(self, suite: Path, name: str) -> None:
        path = suite / name
        path.chmod(0o644)
        text = path.read_bytes()
        path.unlink()
        path.write_bytes(text.replace(b"0.05", b"0.06") if name == "params.yaml" else text + b"\n")
        assert command(suite, "check").returncode == 4

    def test_a_comment_in_the_params_changes_nothing(self, suite: Path) -> None:
        path = suite / "params.yaml"
        path.write_text("# a remark\n" + path.read_text())
        done = command(suite, "run")
        assert (done.returncode, ran(done.stderr)) == (0, set()), done.stderr

    def test_a_wrong_option_leaves_everything_as_it_was(self, suite: Path) -> None:
        files = [path for path in (suite / "reports").rglob("*") if path.is_file()]
        before = {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
        edit(suite, "compress.steps", [{"method": "structured_pruning", "pruning_ration": 0.5}])
        done = command(suite, "run")
        assert done.returncode == 2
        assert "pruning_ration" in done.stderr
        assert "'pruning_ratio'" in done.stderr
        assert {path: hashlib.sha256(path.read_bytes()).hexdigest() for path in before} == before

    def test_two_runs_at_once_the_second_is_told(self, suite: Path) -> None:
        edit(suite, "train.epochs", 4)
        first = subprocess.Popen(
            [sys.executable, "-m", "compression_gate", "run"],
            cwd=suite,
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 60
            while (suite / "reports" / "verdict.json").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            second = command(suite, "run")
            assert second.returncode == 2
            assert str(first.pid) in second.stderr
        finally:
            os.killpg(first.pid, signal.SIGKILL)
            first.wait()
        # Killed in the middle: what lies there passes no check, and a rerun ends as if nothing had happened.
        assert command(suite, "check").returncode == 4
        done = command(suite, "run")
        assert done.returncode == 0, done.stdout + done.stderr


TEXTS = """
import pathlib
import torch
from types import SimpleNamespace

class Tagger(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = torch.nn.Embedding(20, 24)
        self.body = torch.nn.Linear(24, 48)
        self.head = torch.nn.Linear(48, 2)

    def forward(self, tokens, mask):
        mean = (self.embed(tokens) * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        return SimpleNamespace(logits=self.head(torch.relu(self.body(mean))))

def pretrained():
    model = Tagger()
    torch.manual_seed(0)
    items = load("train")
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for start in range(0, 1200, 40):
        inputs, targets = collate([items[index] for index in range(start, start + 40)])
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(**inputs).logits, targets).backward()
        optimizer.step()
    return model

def load(split):
    if split not in ("train", "test"):
        raise KeyError(split)
    generator = torch.Generator().manual_seed(len(split))
    items = []
    for _ in range(1500):
        length = int(torch.randint(8, 20, (1,), generator=generator))
        label = int(torch.randint(0, 2, (1,), generator=generator))
        tokens = torch.randint(1, 20, (length,), generator=generator)
        tokens[: length // 2] = torch.randint(1, 10, (length // 2,), generator=generator) + 9 * label
        items.append((tokens, label))
    return items

def collate(examples):
    longest = max(len(tokens) for tokens, _ in examples)
    tokens = torch.zeros(len(examples), longest, dtype=torch.long)
    mask = torch.zeros(len(examples), longest)
    for row, (text, _) in enumerate(examples):
        tokens[row, : len(text)] = text
        mask[row, : len(text)] = 1
    return {"tokens": tokens, "mask": mask}, torch.tensor([label for _, label in examples])
"""
TEXT_PARAMS = """\
task:
  model: texts:pretrained
  data: texts:load
  collate: texts:collate
  weights: from_model
  dynamic: {tokens: {1: length}, mask: {1: length}}
prepare: {allow: [duplicates, leaks]}
compress: {steps: [{method: static_quantization}]}
benchmark: {budget_s: 6}
gate: {max_accuracy_drop: 0.05, min_compression_ratio: 0.5}
"""


def test_a_dict_model_with_logits_and_lengths_that_vary_comes_trained(tmp_path: Path) -> None:
    """No git here, and nothing is trained: the model is what its factory returns."""
    (tmp_path / "texts.py").write_text(TEXTS)
    (tmp_path / "params.yaml").write_text(TEXT_PARAMS)
    assert command(tmp_path, "init").returncode == 0
    done = command(tmp_path, "run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "without git" in done.stderr
    assert (tmp_path / "reports" / "training.csv").read_text().count("\n") == 1
    evaluation = json.loads((tmp_path / "reports" / "evaluation.json").read_text())
    assert evaluation["models"]["reference"]["metrics"]["accuracy"]["value"] > 0.7


def test_two_suites_beside_a_foreign_pipeline_leave_it_untouched(tmp_path: Path) -> None:
    """The root has a dvc.yaml and a params.yaml of its own, with stages and keys called train."""
    shop(tmp_path)
    git(tmp_path, "init", "-q")
    foreign = {
        "dvc.yaml": "stages:\n  train:\n    cmd: echo trained > out.txt\n    params: [train]\n    outs: [out.txt]\n",
        "params.yaml": "train: {rate: 3}\n",
    }
    for name, text in foreign.items():
        (tmp_path / name).write_text(text)
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-qm", "ours")
    for name, ratio in (("small", 0.5), ("large", 0.1)):
        folder = tmp_path / "compression" / name
        folder.mkdir(parents=True)
        (folder / "params.yaml").write_text(TWELVE_LINES.replace("0.25", str(ratio)))
        assert command(tmp_path, "init", "-C", str(folder)).returncode == 0
        done = command(tmp_path, "run", "-C", str(folder))
        assert done.returncode == 0, done.stdout + done.stderr
        assert verdict_of(folder)["status"] == "pass"
    assert {name: (tmp_path / name).read_text() for name in foreign} == foreign
    assert not (tmp_path / "out.txt").exists()
    sizes = [
        len((tmp_path / "compression" / name / "models/candidate/model.onnx").read_bytes())
        for name in ("small", "large")
    ]
    assert sizes[0] < sizes[1]


def test_init_refuses_to_take_a_foreign_root(tmp_path: Path) -> None:
    shop(tmp_path)
    (tmp_path / "params.yaml").write_text("train: {rate: 3}\n")
    done = command(tmp_path, "init", "--model", "shop.net:Net", "--data", "shop.blobs:load")
    assert done.returncode == 2
    assert "-C compression" in done.stderr
    assert (tmp_path / "params.yaml").read_text() == "train: {rate: 3}\n"
