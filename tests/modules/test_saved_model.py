"""A model in a folder, and files that are no such model."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from compression_gate.errors import CompressionError
from compression_gate.modules.saved_model import WEIGHTS_FILE, load_model, save_model
from compression_gate.modules.structure import STRUCTURE_FILE


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)).eval()


def test_the_same_model_gives_the_same_bytes_in_another_process(tmp_path):
    program = (
        "import sys, pathlib, torch; from torch import nn\n"
        "from compression_gate.modules.saved_model import save_model\n"
        "torch.manual_seed(0); model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(8)))\n"
        "for index in range(1, 8, 2): model[index].weight = model[index - 1].weight\n"
        "save_model(model, model, pathlib.Path(sys.argv[1]))"
    )
    for name in "ab":
        subprocess.run([sys.executable, "-c", program, str(tmp_path / name)], check=True)
    for file in (WEIGHTS_FILE, STRUCTURE_FILE):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


@pytest.mark.parametrize("keep", [0, 7, 100, -1])
def test_weights_cut_short_are_refused(net, tmp_path, keep):
    save_model(net, net, tmp_path)
    content = (tmp_path / WEIGHTS_FILE).read_bytes()
    (tmp_path / WEIGHTS_FILE).write_bytes(content[:keep])
    with pytest.raises(CompressionError, match=r"model\.safetensors"):
        load_model(net, tmp_path)


def test_weights_of_another_model_are_refused(net, tmp_path):
    save_model(net, net, tmp_path)
    with pytest.raises(CompressionError, match=r"(?s)model\.safetensors.*run the compress stage again"):
        load_model(nn.Linear(2, 2), tmp_path)


@pytest.mark.parametrize("missing", [WEIGHTS_FILE, STRUCTURE_FILE])
def test_a_missing_file_is_named(net, tmp_path, missing):
    save_model(net, net, tmp_path)
    (tmp_path / missing).unlink()
    with pytest.raises(CompressionError, match=missing):
        load_model(net, tmp_path)
