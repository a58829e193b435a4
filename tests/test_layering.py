"""Who may import whom, and that the torch-free side is free of torch."""

import ast
import graphlib
import subprocess
import sys
from pathlib import Path

import pytest

import compression_gate

PACKAGE = "compression_gate"
ROOT = Path(compression_gate.__file__).parent

# From the bottom up: a module may import from its own row and from those above it in this list, never from below.
LAYERS = (
    ("errors", "progress"),
    ("registry",),
    ("records",),
    ("gate", "reporters", "history", "schemas"),
    ("forge",),
    ("tasks",),
    ("modules",),
    ("codec", "methods", "runtimes", "measurers"),
    ("artifacts", "search", "release", "pipeline", "selftest"),
    ("stages", "pytest_plugin"),
    ("cli",),
    ("__main__",),
)
RANKS = {name: rank for rank, names in enumerate(LAYERS) for name in names}
TORCH_SIDE = {"tasks", "modules", "methods", "codec", "runtimes", "measurers", "artifacts", "search", "stages"}
# Parts of the torch side that a build without torch runs. A folder's own name stands for its `__init__.py`.
TORCH_FREE = {
    "measurers",
    "measurers.machine",
    "methods",
    "runtimes",
    "stages",
    "stages.check",
    "stages.gate",
    "stages.post",
    "stages.record",
    "stages.release",
    "stages.report",
    "stages.review",
    "stages.selftest",
    "stages.waive",
    "tasks",
    "tasks.fashion_mnist_files",
    "tasks.sources",
}
# These take torch only when called, and only for what needs it: they must start at once.
QUICK_TO_IMPORT = {"cli", "pytest_plugin", "stages.doctor", "stages.init", "stages.listing", "stages.run"}
# Whatever imports torch, or is of no use without it.
TORCH = {"torch", "torch_pruning", "onnx", "onnxruntime", "onnxscript", "openvino", "safetensors"}

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(ROOT.rglob("*.py"))
}


def imports(path):
    """Every module that a file names in an import, wherever in the file, as (line, dotted name)."""
    package = (PACKAGE, *path.relative_to(ROOT).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            source = ".".join(part for part in (base, node.module) if part)
            yield node.lineno, source
            # `from compression_gate.stages import run` names a module too; where it is none, it does no harm.
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)


def own(name):
    """The part of a dotted name that is below the package, or None for what is not ours."""
    return name.removeprefix(f"{PACKAGE}.") if name.startswith(f"{PACKAGE}.") else None


def layer(name):
    return name.partition(".")[0]


def is_torch_free(module):
    return module in TORCH_FREE or layer(module) not in TORCH_SIDE


@pytest.mark.parametrize("module", MODULES)
def test_module_imports_nothing_from_above_it(module):
    if module == "__init__":
        pytest.skip("the package's public names may come from anywhere; they are looked up when asked for")
    assert layer(module) in RANKS, f"{module}: say in LAYERS where this stands"
    faults = [
        f"{MODULES[module]}:{line}: {name}"
        for line, name in imports(MODULES[module])
        if (target := own(name)) and layer(target) in RANKS and RANKS[layer(target)] > RANKS[layer(module)]
    ]
    assert not faults


def test_folders_import_one_another_in_no_circle():
    """Neighbours of one row may use each other, one way round."""
    graph = {
        layer(module): {
            layer(target)
            for other, path in MODULES.items()
            if layer(other) == layer(module)
            for _, name in imports(path)
            if (target := own(name)) and layer(target) in RANKS and layer(target) != layer(module)
        }
        for module in MODULES
        if module != "__init__"
    }
    tuple(graphlib.TopologicalSorter(graph).static_order())  # CycleError names the circle


@pytest.mark.parametrize(
    "module", [module for module in MODULES if is_torch_free(module) and module not in QUICK_TO_IMPORT]
)
def test_torch_free_module_names_no_torch_anywhere(module):
    """Not inside a function either."""
    faults = [
        f"{MODULES[module]}:{line}: {name}"
        for line, name in imports(MODULES[module])
        if name.partition(".")[0] in TORCH or ((target := own(name)) in MODULES and not is_torch_free(target))
    ]
    assert not faults


def test_torch_free_modules_can_be_imported_where_torch_cannot():
    modules = [module for module in MODULES if is_torch_free(module) or module in QUICK_TO_IMPORT]
    wanted = [PACKAGE, *(f"{PACKAGE}.{module}" for module in modules if module not in {"__init__", "__main__"})]
    script = f"""
import importlib, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {TORCH!r}:
            raise ModuleNotFoundError(f"{{name}} was imported", name=name)

sys.meta_path.insert(0, Refuse())
for name in {wanted!r}:
    importlib.import_module(name)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
