"""`search` on a tiny suite, with real trials: chains carried out, exported, judged; the recipe takes the usual road."""

import csv
import dataclasses
import json
import math
import shutil

import pytest
import yaml

from compression_gate.errors import ParamsError, SearchError
from compression_gate.methods.chain import recipe_of, steps_of
from compression_gate.records.artifact import Artifact
from compression_gate.records.metrics import CompressionRecord, Evaluation
from compression_gate.records.params import read_params
from compression_gate.records.recipe import Recipe
from compression_gate.records.search import SearchRecord, stored_searches
from compression_gate.records.verdict import Check
from compression_gate.search.base import Request
from compression_gate.search.executors.local import Place
from compression_gate.stages import compress, evaluate, prepare, search, train, trial
from compression_gate.stages.search import Ask, journal_lock
from compression_gate.stages.search_space import opened_space

SPACE = [
    {"method": "batchnorm_folding", "optional": True},
    {"method": "weight_only_quantization", "bits": [8, 4, 2], "optional": True},
]
SETTINGS = {
    "space": SPACE,
    "objectives": ["quality", "size_bytes"],
    "budget": {"trials": 6},
    "population": 3,
    "workers": 1,
    "searcher": "random",
}
RULES = {
    "accuracy": {"metric": "accuracy", "max_drop": 0.3, "accept_underpowered": True},
    "size": {"metric": "size_bytes", "max": 30_000},
}


class HereExecutor:
    """Carries trials out in this process, which starts quicker than one of its own."""

    def __init__(self, place):
        self.place, self.waiting, self.laboratory = place, [], None

    @property
    def free(self):
        return 2 - len(self.waiting)

    def submit(self, request):
        self.waiting.append(request)

    def finished(self, timeout_s):
        if self.laboratory is None:
            self.laboratory = trial.open_laboratory(self.place.suite, self.place.folder)
        done = [(one.number, trial.carry_out(one, self.laboratory)) for one in self.waiting[:1]]
        del self.waiting[:1]
        return done

    def close(self):
        self.waiting.clear()


def here(suite, folder, settings):
    return HereExecutor(Place(suite=suite, folder=folder))


@pytest.fixture(autouse=True)
def in_this_process(monkeypatch):
    """Trials run here unless a test asks for processes."""
    monkeypatch.setattr(search, "executor_of", here)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Where the reference of the first suite is kept for the others, which would train the same."""
    return tmp_path_factory.mktemp("reference")


@pytest.fixture
def trained(suite, reference):
    """A suite with a reference, and a search of chains without training."""
    suite.edit("task.model_args", {"width": 32})
    suite.edit("compress", {"steps": [{"method": "weight_only_quantization", "bits": 8}]})
    suite.edit("gate", {"rules": RULES})
    suite.edit("search", SETTINGS)
    if not (reference / "models").exists():
        prepare.run(suite.path)
        train.run(suite.path)
        for folder in ("models", "reports"):
            shutil.copytree(suite.path / folder, reference / folder)
    for folder in ("models", "reports"):
        shutil.copytree(reference / folder, suite.path / folder, dirs_exist_ok=True)
    return suite


def rows(suite, name="trials.csv"):
    with (suite.path / "reports/search" / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_search_writes_recipe_front_table_and_record(trained):
    found = search.run(trained.path, Ask())
    read = SearchRecord.read(trained.path / "reports/search/search.json")
    assert read.model_dump(mode="json") == found.model_dump(mode="json")
    assert (found.trials, found.failed, found.ended) == (6, 0, "6 trials")
    assert found.best is not None
    table = rows(trained)
    assert [int(row["trial"]) for row in table] == list(range(6))
    sizes = [float(row["size_bytes"]) for row in table if row["feasible"] == "True"]
    assert found.best.answer.figures["size_bytes"] == min(sizes)
    recipe = Recipe.read(trained.path / found.recipe)
    assert recipe.digest == found.best.recipe_digest
    assert recipe.provenance.feasible
    assert recipe.provenance.budget == {"trials": found.trials}
    assert list(recipe.provenance.space) == SPACE
    assert recipe.provenance.space_digest == found.space_digest
    assert recipe.provenance.validation["size_bytes"] == min(sizes)
    for placed in found.front:
        assert Recipe.read(trained.path / placed.recipe).digest == placed.trial.recipe_digest
    metrics = json.loads((trained.path / "reports/search/metrics.json").read_text(encoding="utf-8"))
    assert metrics["search"]["best"]["size_bytes"] == min(sizes)
    assert search.code_of(found) == 0


def test_the_recipe_that_was_found_is_carried_out_to_the_same_file(trained):
    """What a trial measured is what `compress` makes of its recipe, byte for byte."""
    found = search.run(trained.path, Ask())
    trained.edit("compress", {"recipe": found.recipe})
    compress.run(trained.path)
    artifact = Artifact.open(trained.path / "models/candidate")
    assert artifact.size_bytes == found.best.answer.figures["size_bytes"]
    assert artifact.recipe_digest == found.best.recipe_digest
    assert recipe_of(steps_of(read_params(trained.path), trained.path)).digest == found.best.recipe_digest


def test_the_same_seed_finds_the_same_in_processes_as_here(trained, monkeypatch):
    search.run(trained.path, Ask(name="one"))
    one = rows(trained)
    monkeypatch.undo()
    search.run(trained.path, Ask(name="two", workers=2))
    two = rows(trained)
    timed = ("seconds", "told_s")
    assert [{key: row[key] for key in row if key not in timed} for row in one] == [
        {key: row[key] for key in row if key not in timed} for row in two
    ]


def test_the_steps_of_the_params_are_tried_first(trained):
    search.run(trained.path, Ask(trials=3))
    assert rows(trained)[0]["origin"] == "start"
    assert rows(trained)[0]["steps"] == "weight_only_quantization"


def test_a_recipe_in_use_is_tried_first_as_steps_are(trained):
    first = search.run(trained.path, Ask(trials=3))
    trained.edit("compress", {"recipe": first.recipe})
    resumed = search.run(trained.path, Ask(trials=4, resume=True))
    assert resumed.started_from == 3  # though its own recipe was adopted
    adopted = resumed.best.recipe_digest
    again = search.run(trained.path, Ask(trials=3))
    assert again.start.number == 0
    assert again.start.recipe_digest == adopted


def test_limits_that_nobody_can_meet_end_in_the_nearest_miss(trained):
    trained.edit("gate.rules.size.max", 500)
    found = search.run(trained.path, Ask())
    assert found.best is None
    assert found.recipe == "recipes/found.nearest_miss.yaml"
    recipe = Recipe.read(trained.path / found.recipe)
    assert not recipe.provenance.feasible
    assert recipe.provenance.distances["size"] == pytest.approx(found.nearest.answer.figures["size_bytes"] / 500 - 1)
    assert search.code_of(found) == 1


def test_a_search_that_finds_nothing_leaves_what_an_earlier_one_found(trained):
    """`params.yaml` may name it, and the gate judges it anyway."""
    before = search.run(trained.path, Ask())
    trained.edit("gate.rules.size.max", 500)
    assert search.run(trained.path, Ask()).best is None
    names = {"found", "found.yaml", "found.nearest_miss.yaml"}
    assert {path.name for path in (trained.path / "recipes").iterdir()} == names
    assert Recipe.read(trained.path / "recipes/found.yaml").digest == before.best.recipe_digest
    assert [one.best.recipe_digest for one in stored_searches(trained.path)] == [before.best.recipe_digest]


def test_a_search_that_finds_something_takes_the_nearest_miss_away(trained):
    trained.edit("gate.rules.size.max", 500)
    search.run(trained.path, Ask())
    trained.edit("gate.rules.size.max", 30_000)
    search.run(trained.path, Ask())
    assert {path.name for path in (trained.path / "recipes").iterdir()} == {"found", "found.yaml"}


def test_two_searches_at_once_write_whole_reports_and_those_of_the_later_stay(trained, monkeypatch):
    class Interrupted(HereExecutor):
        """Another search of the suite begins and ends while the first trial is carried out."""

        def finished(self, timeout_s):
            if self.waiting and self.waiting[0].number == 0:
                monkeypatch.setattr(search, "executor_of", here)
                search.run(trained.path, Ask(name="other", trials=2))
                assert [int(row["trial"]) for row in rows(trained)] == [0, 1]
            return super().finished(timeout_s)

    monkeypatch.setattr(
        search, "executor_of", lambda suite, folder, params: Interrupted(Place(suite=suite, folder=folder))
    )
    found = search.run(trained.path, Ask())
    assert [int(row["trial"]) for row in rows(trained)] == list(range(6))
    assert SearchRecord.read(trained.path / "reports/search/search.json").name == found.name
    assert [record.name for record in stored_searches(trained.path)] == ["found", "other"]


def test_a_damaged_front_is_named_and_left_out(trained, caplog):
    found = search.run(trained.path, Ask())
    (trained.path / "recipes/broken").mkdir()
    (trained.path / "recipes/broken/front.json").write_text('{"name": ')
    assert [one.name for one in stored_searches(trained.path)] == [found.name]
    assert "recipes/broken/front.json" in caplog.text


def test_a_resumed_search_needs_no_more_than_a_larger_budget(trained):
    search.run(trained.path, Ask(trials=3))
    first = rows(trained)
    found = search.run(trained.path, Ask(trials=6, resume=True))
    assert found.started_from == 3
    assert [row["recipe"] for row in rows(trained)][:3] == [row["recipe"] for row in first]
    resumed = [row["recipe"] for row in rows(trained)]
    search.run(trained.path, Ask(name="whole"))
    assert [row["recipe"] for row in rows(trained)] == resumed


CHANGED = {
    "the space": ("search.space", SPACE[1:], "other .*space"),
    "the rules": ("gate.rules.size.max", 20_000, "other rules"),
    "the seed": ("search.seed", 7, "other search settings"),
}


@pytest.mark.parametrize(("key", "value", "message"), CHANGED.values(), ids=CHANGED)
def test_another_search_is_not_resumed(trained, key, value, message):
    search.run(trained.path, Ask(trials=3))
    trained.edit(key, value)
    with pytest.raises(SearchError, match=message):
        search.run(trained.path, Ask(trials=6, resume=True))


def test_strengths_by_layer_come_from_the_table_of_sensitivities(trained):
    trained.edit("search.space", [{"method": "weight_only_quantization", "bits": {"by_layer": [8, 4]}}])
    search.run(trained.path, Ask(trials=3))
    assert (trained.path / "reports/sensitivity.json").exists()
    assert any("weight_only_quantization(bits 4) > weight_only_quantization" in row["steps"] for row in rows(trained))


def test_another_model_may_be_what_is_found(trained):
    models = {"model": [f"{trained.module}:Net"], "model_args": {"width": [8, 16]}, "epochs": 1}
    trained.edit("search.space", [models, SPACE[1]])
    found = search.run(trained.path, Ask(trials=2))
    assert found.failed == 0
    first = Recipe.read(trained.path / found.recipe).steps[0]
    assert first.options["student"]["model_args"]["width"] in (8, 16)


def test_code_of_a_model_that_only_the_space_names_is_code_of_the_search(trained):
    source = trained.path / f"slimmer_{trained.module}.py"
    source.write_text(f"from {trained.module} import Net\n")
    student = {"model": [f"{source.stem}:Net"], "epochs": 1, "optional": True}
    trained.edit("search.space", [student, SPACE[1]])
    assert search.run(trained.path, Ask(trials=2)).failed == 0
    source.write_text(f"from {trained.module} import Net  # another\n")
    with pytest.raises(SearchError, match="other code or data"):
        search.run(trained.path, Ask(trials=4, resume=True))


def test_a_reference_that_cannot_be_measured_ends_it_at_once(trained):
    trained.edit("compress.runtime", "torch")
    with pytest.raises(SearchError, match=r"the reference as it ships cannot be measured"):
        search.run(trained.path, Ask())


LACKS = {  # figures of the reference, the search section, what is said
    "no loss": (
        {"accuracy": 0.9, "size_bytes": 10.0},
        {"objectives": ["loss"]},
        "got no loss; accuracy is nan: choose others",
    ),
    "nothing to count": ({"accuracy": 0.9, "macs": 0.0}, {"objectives": ["macs"]}, "got no size_bytes, macs but 0"),
    "no quality": (
        {"size_bytes": 10.0, "loss": 0.1, "latency_ratio": 1.0},
        {},
        "expected a quality .* got no accuracy",
    ),
}


@pytest.mark.parametrize(("figures", "section", "message"), LACKS.values(), ids=LACKS)
def test_what_the_reference_lacks_is_named(trained, figures, section, message):
    trained.edit("search", section)
    with pytest.raises(SearchError, match=message):
        search.goal_of(read_params(trained.path), trial.Answer(figures=figures, remarks=("accuracy is nan",)))


class Busy:
    """An executor that has no place free."""

    free = 0

    def submit(self, request):
        pass

    def finished(self, timeout_s):
        return []


def measured(interrupted=lambda: False, limit_s=math.inf):
    return search.measured_reference(iter(()), None, Busy(), interrupted, limit_s)


def test_time_and_ctrl_c_are_looked_at_while_the_reference_is_measured(caplog, monkeypatch):
    with pytest.raises(SearchError, match=r"the reference is not measured after .* minutes"):
        measured(limit_s=0.06)
    with pytest.raises(KeyboardInterrupt):
        measured(interrupted=lambda: True)
    monkeypatch.setattr(search, "PATIENCE_S", 0.01)
    with pytest.raises(SearchError):
        measured(limit_s=0.06)
    assert "it is slow, or no place is free" in caplog.text


def test_the_journal_of_a_search_that_is_begun_anew_is_kept(tmp_path, caplog):
    journal = tmp_path / search.JOURNAL
    journal.write_text("header\n")
    search.put_away(journal)
    assert not journal.exists()
    assert caplog.text == ""
    journal.write_text('{"event": "answered"}\n')
    search.put_away(journal)
    assert (tmp_path / search.KEPT).read_text() == '{"event": "answered"}\n'
    assert "--resume" in caplog.text


def test_without_a_reference_the_way_to_one_is_told(trained):
    shutil.rmtree(trained.path / "models")
    with pytest.raises(Exception, match="a search starts from a trained reference"):
        search.run(trained.path, Ask())


BAD = {
    "unknown searcher": (Ask(searcher="genetics"), "did you mean 'genetic'"),
    "unknown executor": (Ask(executor="locl"), "did you mean 'local'"),
    "no trials": (Ask(trials=0), "search.budget.trials"),
    "a name with a slash": (Ask(name="../x"), "search.name"),
    "negative seed": (Ask(seed=-1), "search.seed"),
}


@pytest.mark.parametrize(("ask", "message"), BAD.values(), ids=BAD)
def test_a_wrong_command_line_is_refused(trained, ask, message):
    with pytest.raises(ParamsError, match=message):
        search.run(trained.path, ask)


SECTION = {
    "no end": ({"budget": {"trials": None}}, "expected trials or minutes, got neither"),
    "an objective twice": ({"objectives": ["quality", "quality"]}, "expected each once"),
    "an objective that is none": ({"objectives": ["speed"]}, "search.objectives.0"),
    "a proxy as dear as the trial": (
        {"proxy": {"train_share": 0.5}, "train_share": 0.5},
        "expected less than train_share",
    ),
    "a proxy whose rungs fall": ({"proxy": {"train_share": [0.5, 0.2]}}, "expected a share, or several that rise"),
    "a largest cost of nothing": (
        {"fitness": {"max_cost": 0.5}, "objectives": ["quality"]},
        "expected a cost among the objectives",
    ),
    "an unknown key": ({"searchers": "genetic"}, "search.searchers"),
}


@pytest.mark.parametrize(("section", "message"), SECTION.values(), ids=SECTION)
def test_a_wrong_section_is_refused_with_its_line(trained, section, message):
    trained.edit("search", section)
    with pytest.raises(ParamsError, match=message):
        read_params(trained.path)


def test_the_search_has_no_part_in_what_the_stages_rest_on(trained):
    before = read_params(trained.path)
    trained.edit("search.seed", 99)
    after = read_params(trained.path)
    assert before.search != after.search
    assert before.digest == after.digest
    assert "search" not in after.as_dict()


# One trial by itself.


@pytest.fixture
def laboratory(trained):
    """A laboratory as the search lays it out."""
    params = read_params(trained.path)
    folder = trained.path / search.FOLDER / "found"
    folder.mkdir(parents=True)
    search.lay_out(trained.path, folder, params)
    return trial.open_laboratory(trained.path, folder)


def steps(*given):
    return Request(number=0, steps=tuple(given))


def test_a_trial_measures_the_file_that_would_ship(laboratory, trained):
    """Bytes and validation accuracy are those that the stages find for the same chain."""
    step = {"method": "weight_only_quantization", "bits": 4}
    answer = trial.carry_out(steps(step), laboratory)
    trained.edit("compress", {"steps": [step]})
    compress.run(trained.path)
    assert answer.figures["size_bytes"] == Artifact.open(trained.path / "models/candidate").size_bytes
    record = CompressionRecord.read(trained.path / "reports/compression.json")
    assert answer.figures["accuracy"] == pytest.approx(record.steps[-1].quality["accuracy"], abs=0.05)


def test_a_trial_never_reads_the_test_split(laboratory, trained, monkeypatch):
    from compression_gate.tasks.task import Task

    asked, real = [], Task.dataset
    monkeypatch.setattr(Task, "dataset", lambda task, name: asked.append(name) or real(task, name))
    answer = trial.carry_out(steps({"method": "batchnorm_folding"}), laboratory)
    assert answer.complete
    assert "test" not in asked
    assert "train" in asked


def test_a_trial_is_judged_by_the_gates_rules(laboratory):
    answer = trial.carry_out(steps({"method": "weight_only_quantization", "bits": 8}), laboratory)
    assert {one.rule: one.status for one in answer.checks} == {"accuracy": "pass", "size": "pass"}
    assert answer.verdict == "pass"


def test_what_a_waiver_covers_stops_no_trial(trained):
    trained.edit("gate.rules.size.max", 500)
    waiver = {"rule": "size", "ceiling": 90_000, "reason": "a new head", "owner": "ada", "expires": "2099-12-31"}
    (trained.path / "waivers.yaml").write_text(yaml.safe_dump([waiver]), encoding="utf-8")
    params = read_params(trained.path)
    folder = trained.path / search.FOLDER / "found"
    folder.mkdir(parents=True)
    search.lay_out(trained.path, folder, params)
    answer = trial.carry_out(
        steps({"method": "weight_only_quantization", "bits": 8}), trial.open_laboratory(trained.path, folder)
    )
    assert {one.rule: one.status for one in answer.checks} == {"accuracy": "pass", "size": "waived"}
    assert (answer.verdict, answer.violation) == ("pass", 0)


def test_a_prefix_that_an_earlier_trial_had_is_not_computed_again(laboratory):
    fold, quantize = {"method": "batchnorm_folding"}, {"method": "weight_only_quantization", "bits": 4}
    assert trial.carry_out(steps(fold), laboratory).reused_steps == 0
    behind = trial.carry_out(steps(fold, quantize), laboratory)
    assert behind.reused_steps == 1
    again = trial.carry_out(steps(fold, quantize), laboratory)
    assert again.reused_steps == 2
    assert again.figures == behind.figures


def test_a_step_without_effect_is_what_the_gate_would_call_an_error(laboratory):
    answer = trial.carry_out(steps({"method": "magnitude_pruning", "sparsity": 0.0001}), laboratory)
    assert answer.verdict == "error"
    assert answer.violation >= 1
    assert answer.remarks == ("magnitude_pruning: no effect",)


def test_a_chain_that_fails_is_an_answer(laboratory):
    nothing = {"method": "dynamic_quantization", "ignore": ["hidden", "out"]}
    answer = trial.carry_out(steps(nothing), laboratory)
    assert not answer.complete
    assert "dynamic_quantization" in answer.reason
    again = trial.carry_out(steps({"method": "batchnorm_folding"}), laboratory)
    assert again.complete


def test_a_figure_that_is_not_a_number_is_recorded_as_such(laboratory, monkeypatch):
    monkeypatch.setattr(trial, "loss_of", lambda answers, task: float("nan"))
    answer = trial.carry_out(steps({"method": "batchnorm_folding"}), laboratory)
    assert "loss" not in answer.figures
    assert "loss is nan" in answer.remarks


def test_code_that_changed_since_the_search_began_is_told(laboratory, trained):
    trained.append("\n# a change\n")
    answer = trial.carry_out(steps({"method": "batchnorm_folding"}), laboratory)
    assert f"{trained.module}.py: changed since the search began" in answer.reason


def test_a_share_of_the_training_data_keeps_the_classes(laboratory):
    whole, part = laboratory.bench(1.0).task, laboratory.bench(0.25).task
    assert len(part.split("train")) == round(len(whole.split("train")) * 0.25)
    labels = [part.split("train")[index][1] for index in range(len(part.split("train")))]
    assert {labels.count(value) for value in set(labels)} == {len(labels) // 3}
    assert part.split("validation").ids == whole.split("validation").ids
    assert set(part.split("train").ids) < set(whole.split("train").ids)


def test_times_are_asked_for_only_where_somebody_wants_them(laboratory):
    assert not laboratory.times
    faster = dataclasses.replace(
        laboratory,
        params=laboratory.params.model_copy(
            update={"search": laboratory.params.search.model_copy(update={"objectives": ("quality", "latency")})}
        ),
    )
    assert faster.times
    answer = trial.carry_out(steps({"method": "batchnorm_folding"}), faster)
    assert answer.figures["latency_ratio"] > 0


def test_a_trial_is_timed_and_judged_at_the_batch_size_of_the_gate(laboratory, monkeypatch):
    params = laboratory.params
    parts = {"benchmark": {"batch_sizes": (8, 1)}, "search": {"objectives": ("quality", "latency")}}
    parts = {name: getattr(params, name).model_copy(update=changes) for name, changes in parts.items()}
    asked = []

    def sampled(other, candidate, setting, budget_s):
        asked.extend(value.shape[0] for value in setting.inputs.values())
        return trial_sample_pair(other, candidate, setting, budget_s)

    trial_sample_pair = trial.sample_pair
    monkeypatch.setattr(trial, "sample_pair", sampled)
    batches = dataclasses.replace(laboratory, params=params.model_copy(update=parts))
    answer = trial.carry_out(steps({"method": "weight_only_quantization", "bits": 4}), batches)
    assert set(asked) == {8}
    assert {check.rule: check.status for check in answer.checks}["size"] == "pass"


def test_rules_that_a_trial_cannot_answer_are_named(trained):
    trained.edit("gate.rules.load", {"metric": "load_time_ms", "max": 500})
    found = search.run(trained.path, Ask(trials=2))
    assert found.unanswered == ("load",)
    assert found.best is not None


def test_the_winner_is_judged_on_test_data_by_the_usual_road(trained):
    found = search.run(trained.path, Ask())
    trained.edit("compress", {"recipe": found.recipe})
    compress.run(trained.path)
    assert evaluate.run(trained.path).n == 90
    assert Evaluation.read(trained.path / "reports/evaluation.json").models["candidate"].metrics["accuracy"].value > 0.5


def test_a_recipe_keeps_where_it_came_from(trained):
    found = search.run(trained.path, Ask(trials=2))
    text = yaml.safe_load((trained.path / found.recipe).read_text(encoding="utf-8"))
    assert list(text) == ["schema", "provenance", "steps"]
    assert text["provenance"]["searcher"] == "random"


OUTSIDE = {
    "undecided and beyond": ("undecided", "block", -0.1, True),
    "undecided and inside": ("undecided", "block", 0.1, False),
    "beyond, and only warned of": ("undecided", "warn", -0.1, False),
    "passed": ("pass", "block", 0.1, False),
    "not judged": ("error", "block", None, False),
}


@pytest.mark.parametrize(("status", "level", "headroom", "outside"), OUTSIDE.values(), ids=OUTSIDE)
def test_a_figure_beyond_a_blocking_limit_counts_though_nothing_is_proven(status, level, headroom, outside):
    check = Check(rule="accuracy", metric="accuracy", status=status, level=level, headroom=headroom)
    assert trial.is_outside(check) == outside


def test_how_far_an_undecided_check_is_counts_the_worse_end_of_its_interval():
    check = Check(
        rule="accuracy",
        metric="accuracy",
        status="undecided",
        level="block",
        change=-0.008,
        interval=(-0.014, -0.002),
        limit="max_drop 0.01",
        allowed=-0.01,
        headroom=0.002,
    )
    assert trial.beyond(check) == pytest.approx(0.4)
    assert trial.beyond(check.model_copy(update={"status": "fail", "headroom": -0.005})) == pytest.approx(0.5)


LAYERED = ["ilp", "reinforcement", "hybrid"]


@pytest.mark.parametrize("searcher", LAYERED)
def test_searchers_by_layer_go_by_the_table_and_the_limit_on_bytes(trained, searcher):
    trained.edit("search.space", [{"method": "weight_only_quantization", "bits": {"by_layer": [8, 4, 2]}}])
    _, known = opened_space(trained.path, read_params(trained.path))
    assert known.most_bytes == 30_000
    assert known.stored_bytes > 0
    assert {row.method for row in known.table.rows} == {"weight_only_quantization"}
    found = search.run(trained.path, Ask(trials=4, searcher=searcher))
    assert found.trials == 4
    assert found.failed == 0


def test_ilp_without_strengths_by_layer_says_what_to_declare(trained):
    with pytest.raises(ParamsError, match="expected a step with an option by layer"):
        search.run(trained.path, Ask(searcher="ilp"))


def test_the_second_who_wants_a_journal_is_told_who_has_it(tmp_path):
    with (
        journal_lock(tmp_path / "found"),
        pytest.raises(ParamsError, match=r"search found: another search .* process \d+"),
        journal_lock(tmp_path / "found"),
    ):
        pytest.fail("it was held twice")
    with journal_lock(tmp_path / "found"):
        pass
