"""The suites of the methods' tests, for coding what methods make; their models keep the weights they begin with."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

METHODS = Path(__file__).parents[1] / "methods"


def loaded(name: str) -> ModuleType:
    """A module of the methods' tests, under a name of its own."""
    key = f"{name}_of_methods_for_codec"
    if key not in sys.modules:
        spec = importlib.util.spec_from_file_location(key, METHODS / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        sys.modules[key] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules[key])
    return sys.modules[key]


suites = loaded("conftest")
tiny = suites.tiny


@pytest.fixture
def untrained(tiny, monkeypatch):
    """Open the suite of a kind of model without training it."""

    class Beginning(dict):
        def __contains__(self, key):
            return True

        def __getitem__(self, key):
            torch.manual_seed(3)
            return loaded("tiny_models").build(key.split()[0]).state_dict()

    monkeypatch.setattr(suites, "TRAINED", Beginning())
    return tiny
