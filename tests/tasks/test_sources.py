"""A task's own files are found by reading imports, wherever in a file they stand."""

import subprocess

import pytest

from compression_gate.errors import ParamsError
from compression_gate.records.params import TaskParams
from compression_gate.tasks.sources import first_party_sources, head_commit, import_roots, named_in_steps, sources_at

# Files of a repository, the dotted path of the model, and the files that must be found.
TREES = {
    "one module": ({"net.py": "import torch"}, "net:Net", ["net.py"]),
    "a module imports another": ({"net.py": "import layers", "layers.py": ""}, "net:Net", ["layers.py", "net.py"]),
    "packages on the way": (
        {"a/__init__.py": "", "a/b/__init__.py": "", "a/b/net.py": "", "a/other.py": ""},
        "a.b.net:Net",
        ["a/__init__.py", "a/b/__init__.py", "a/b/net.py"],
    ),
    "relative imports": (
        {
            "a/__init__.py": "",
            "a/top.py": "",
            "a/b/__init__.py": "from .. import top",
            "a/b/net.py": "from .layers import Conv\nfrom . import more",
            "a/b/layers.py": "from ..deep.one import x",
            "a/b/more.py": "",
            "a/deep/one.py": "",
            "a/unused.py": "",
        },
        "a.b.net:Net",
        ["a/__init__.py", "a/b/__init__.py", "a/b/layers.py", "a/b/more.py", "a/b/net.py", "a/deep/one.py", "a/top.py"],
    ),
    "a package's own file": (
        {"a/__init__.py": "from .net import Net", "a/net.py": ""},
        "a:Net",
        ["a/__init__.py", "a/net.py"],
    ),
    "inside functions and conditions": (
        {
            "net.py": "def build():\n  import late\nif True:\n  from later import x\ntry:\n  import last\nfinally: 0",
            "late.py": "",
            "later.py": "",
            "last.py": "",
        },
        "net:build",
        ["last.py", "late.py", "later.py", "net.py"],
    ),
    "a namespace package": ({"ns/net.py": "from ns import x", "ns/x.py": ""}, "ns.net:Net", ["ns/net.py", "ns/x.py"]),
    "imports in a circle": ({"a.py": "import b", "b.py": "import a"}, "a:Net", ["a.py", "b.py"]),
    "under src": ({"src/p/__init__.py": "", "src/p/net.py": ""}, "p.net:Net", ["src/p/__init__.py", "src/p/net.py"]),
    "under src, relative": (
        {"src/p/__init__.py": "", "src/p/net.py": "from .x import y", "src/p/x.py": ""},
        "p.net:Net",
        ["src/p/__init__.py", "src/p/net.py", "src/p/x.py"],
    ),
    "what is installed is left out": ({"net.py": "import torch, yaml.nodes"}, "net:Net", ["net.py"]),
}


@pytest.fixture
def repository(tmp_path):
    """A folder that passes for the top of a git checkout."""
    (tmp_path / ".git").mkdir()
    return tmp_path


def written(root, files):
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def found(task, suite, root):
    return [path.relative_to(root.resolve()).as_posix() for path in first_party_sources(task, suite)]


@pytest.mark.parametrize("case", TREES)
def test_sources_are_found(repository, case):
    files, model, expected = TREES[case]
    written(repository, files)
    task = TaskParams(model=model, data="json:loads")
    assert found(task, repository, repository) == expected


@pytest.mark.parametrize("case", TREES)
def test_sources_of_a_suite_below_the_root_are_the_same(repository, case):
    files, model, expected = TREES[case]
    written(repository, files)
    suite = repository / "compression" / "small"
    suite.mkdir(parents=True)
    assert found(TaskParams(model=model, data="json:loads"), suite, repository) == expected


def test_every_dotted_path_is_followed(repository):
    names = ("model", "data", "collate", "loss", "scorer", "trainer")
    written(repository, {f"{name}_file.py": "" for name in names})
    task = TaskParams(**{name: f"{name}_file:call" for name in names})
    assert found(task, repository, repository) == sorted(f"{name}_file.py" for name in names)


def test_folder_without_code_does_not_hide_the_module_of_the_same_name(repository):
    """A suite's outputs lie in `models/`, and `models` is what many users call their package."""
    written(repository, {"models.py": "", "data/__init__.py": ""})
    suite = repository / "compression"
    (suite / "models" / "reference").mkdir(parents=True)
    (suite / "data").mkdir()
    task = TaskParams(model="models:Net", data="data:load")
    assert found(task, suite, repository) == ["data/__init__.py", "models.py"]


def test_suites_own_module_goes_before_the_repositorys(repository):
    written(repository, {"net.py": "", "small/net.py": ""})
    assert found(TaskParams(model="net:Net", data="json:loads"), repository / "small", repository) == ["small/net.py"]


def test_modules_that_are_nowhere_are_told_together(repository):
    task = TaskParams(model="nowhere.one:Net", data="nowhere_two:load")
    with pytest.raises(ParamsError) as caught:
        first_party_sources(task, repository)
    first, second = caught.value.problems
    assert first.startswith("params.yaml: task.model: no module 'nowhere.one' in ")
    assert second.startswith("params.yaml: task.data: no module 'nowhere_two' in ")


PARENTS = ["import not_there_at_all", "raise RuntimeError('no device')", "raise ImportError('no library')"]


@pytest.mark.parametrize("code", PARENTS)
def test_installed_package_that_cannot_be_imported_is_not_called_missing(tmp_path, repository, monkeypatch, code):
    written(tmp_path / "site", {"foreign_failing/__init__.py": code, "foreign_failing/net.py": ""})
    monkeypatch.syspath_prepend(tmp_path / "site")
    assert found(TaskParams(model="foreign_failing.net:Net", data="json:loads"), repository, repository) == []


def test_module_that_an_installed_package_lacks_is_told(repository):
    for module in ("json.nowhere", "json.nowhere.deeper"):
        with pytest.raises(ParamsError, match=f"no module '{module}'"):
            first_party_sources(TaskParams(model=f"{module}:Net", data="json:loads"), repository)


def test_file_that_is_no_python_is_named_with_its_line(repository):
    written(repository, {"net.py": "x = 1\ndef ("})
    with pytest.raises(ParamsError, match=r"net\.py: not valid Python: .*line 2"):
        first_party_sources(TaskParams(model="net:Net", data="json:loads"), repository)


def test_roots_go_from_the_suite_up_to_the_repository(repository):
    suite = repository / "a" / "b"
    suite.mkdir(parents=True)
    (repository / "src").mkdir()
    assert import_roots(suite) == [suite, repository / "a", repository, repository / "src"]


def test_commit_is_marked_where_tracked_files_differ(tmp_path):
    def git(*words):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        answer = subprocess.run(["git", *identity, "-C", tmp_path, *words], capture_output=True, text=True, check=True)
        return answer.stdout.strip()

    assert head_commit(tmp_path) is None
    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "one")
    git("tag", "v1")
    commit = git("rev-parse", "HEAD")
    assert head_commit(tmp_path) == commit
    (tmp_path / "a").write_text("2")
    assert head_commit(tmp_path) == commit + "+"


STEPS = [  # options of a step, and the keys at which models are named
    ({"teacher": "reference"}, []),
    ({"teacher": {"model": "a:B", "weights": "w"}}, ["steps.0.teacher"]),
    ({"teacher": ["reference", {"train": {}}], "student": {"model": "a:C"}}, ["steps.0.teacher.1", "steps.0.student"]),
    ({"members": [[{"method": "x", "student": {"model": "a:C"}}]]}, ["steps.0.members.0.0.student"]),
    ({"student": "smallest"}, []),
    ({"other": {"model": "a:B"}}, []),
]


@pytest.mark.parametrize(("options", "keys"), STEPS)
def test_models_that_steps_name_are_found_wherever_they_stand(options, keys):
    assert [key for key, _ in named_in_steps([options], "steps")] == keys


def test_a_model_named_by_a_step_that_is_nowhere_is_told_with_its_key(tmp_path):
    with pytest.raises(ParamsError, match=r"^params\.yaml: steps\.0\.teacher\.model: no module 'nowhere' in "):
        sources_at({"steps.0.teacher.model": "nowhere:Net"}, [tmp_path])
