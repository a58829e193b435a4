"""The script that replays searchers on a recorded table: on a small made one, and on a real journal."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from pathlib import Path

import pytest
from small_space import known
from small_space import space as layered

from compression_gate.records.trial import Answer
from compression_gate.search.base import Setup
from compression_gate.search.journal import Answered, Asked, Header, Reference, begin
from compression_gate.search.objective import Goal, Score
from compression_gate.search.random_search import Random
from compression_gate.search.space import Units, space_of

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "search_replay.py"
if not SCRIPT.is_file():
    pytest.skip("the scripts are in the repository only", allow_module_level=True)

SLOTS = [
    {"method": "structured_pruning", "pruning_ratio": {"low": 0.1, "high": 0.8}, "optional": True},
    {"method": "weight_only_quantization", "bits": [8, 4, 2], "optional": True},
]
REFERENCE = {"accuracy": 0.92, "size_bytes": 1000.0}


@pytest.fixture(scope="module")
def replay():
    spec = importlib.util.spec_from_file_location("benchmark_search_replay", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def space():
    return space_of(SLOTS, free_order=True, units=Units())


def answered(genome) -> Answer:
    """A made trial: pruning and few bits lose accuracy and bytes; both together crash."""
    pruned = genome["0.structured_pruning.pruning_ratio"] if genome["0.pick"] != "left out" else 0.0
    bits = genome["1.weight_only_quantization.bits"] if genome["1.pick"] != "left out" else 32
    if pruned > 0.7 and bits == 2:
        return Answer(reason="crashed")
    lost = 0.02 * pruned**2 + 0.02 / bits
    return Answer(
        figures={"accuracy": 0.92 - lost, "size_bytes": 1000 * (1 - pruned) * bits / 32}, verdict="pass", seconds=1.0
    )


def goal() -> Goal:
    return Goal(objectives=("quality", "size_bytes"), metric="accuracy", reference=REFERENCE)


def document(replay, count: int = 60):
    one, coins = space(), random.Random(3)
    genomes = [one.sample(coins) for _ in range(count)]
    return {
        "metric": "accuracy",
        "objectives": ["quality", "size_bytes"],
        "reference_bytes": 1000.0,
        "space": json.loads(json.dumps(replay.plain_space(one))),
        "known": None,
        "start": genomes[0],
        "trials": [replay.plain_row(genome, answered(genome), goal()) for genome in genomes],
    }


@pytest.fixture
def table(replay):
    return replay.table_from(document(replay))


def test_table_holds_the_same_space_again(replay, table):
    assert table.space.genes == space().genes
    for row in table.rows[:10]:
        assert table.space.steps_of(row.genome) == space().steps_of(row.genome)


def test_table_holds_what_is_known_of_layers_again(replay):
    found = known(most_bytes=5e4)
    plain = document(replay) | {
        "space": json.loads(json.dumps(replay.plain_space(layered()))),
        "known": json.loads(json.dumps(replay.plain_knowledge(found))),
        "trials": [],
    }
    table = replay.table_from(plain)
    assert table.known == found
    assert table.space.genes == layered().genes
    assert replay.names_for(table, ["ilp"]) == ["ilp"]


def test_recorded_trials_answer_once_each_and_the_nearest_first(table, replay):
    answer = replay.Recordings(table)
    first = answer(table.rows[7].genome)
    assert table.distances(table.rows[7].genome)[7] == 0
    assert first == table.rows[7]
    given = [answer(table.rows[7].genome) for _ in range(20)]
    assert first not in given
    assert len({json.dumps(row.genome) for row in given}) == 20
    assert answer.gone == sorted(answer.gone)


def test_a_missing_step_lies_further_than_another_strength(table):
    genome = dict(table.rows[0].genome) | {"0.pick": "0.structured_pruning", "1.pick": "left out"}
    stronger = genome | {"0.structured_pruning.pruning_ratio": 0.8}
    without = genome | {"0.pick": "left out"}
    rows = [type(table.rows[0])(genome=one, score=Score(values=(), violation=0.0)) for one in (stronger, without)]
    near, far = type(table)(space=table.space, rows=rows, values=2, reference_bytes=1.0).distances(genome)
    assert 0 < near < far


def test_predictions_stay_between_the_neighbours_figures(table, replay):
    said = replay.Predictions(table)(table.rows[7].genome)
    sizes = [row.size_bytes for row in table.rows if row.size_bytes is not None]
    assert min(sizes) <= said.size_bytes <= max(sizes)


def test_neighbours_tell_a_smooth_table_well(table, replay):
    told = replay.trust(table)
    assert told["n"] > 40
    assert all(value > 0.5 for value in told["rank correlation"].values())


@pytest.mark.parametrize("way", ["recorded", "predicted"])
@pytest.mark.parametrize("name", ["random", "genetic", "hybrid"])
def test_replay_of_a_searcher_is_the_same_for_a_seed_and_never_loses_what_it_found(replay, table, way, name):
    first, second = (replay.replayed(name, table, way, 4, (10, 20)) for _ in range(2))
    assert {**first, "ms_per_trial": 0} == {**second, "ms_per_trial": 0}
    early, late = first["at 10"], first["at 20"]
    assert 0 < early["hypervolume"] <= late["hypervolume"]
    assert late["bytes at 0.01"] <= early["bytes at 0.01"]


def test_a_searcher_without_a_place_in_the_space_is_left_out_with_the_reason(replay, table, capsys):
    assert replay.names_for(table, ["random", "ilp"]) == ["random"]
    assert "by layer" in capsys.readouterr().out


def test_tables_of_the_documents_name_every_searcher_and_way(replay, table):
    rows = [
        replay.replayed(name, table, way, seed, (8,))
        for name in ("random", "uniform")
        for way in replay.WAYS
        for seed in range(3)
    ]
    text = "\n".join(replay.tables({"rows": rows}).values())
    assert text.count("| `uniform` |") == text.count("| `random` |") == 2


def test_journal_is_read_with_the_trials_in_full_alone(replay, tmp_path):
    path = tmp_path / "journal.jsonl"
    one = space()
    searcher = Random(Setup(space=one, seed=0, values=2, population=4))
    genomes = [searcher.ask().genome for _ in range(3)]
    journal = begin(path, Header(digest="x"))
    journal.append(Reference(answer=Answer(figures=REFERENCE, verdict="pass")))
    for number, genome in enumerate(genomes):
        journal.append(Asked(number=number, genome=genome, origin="random"))
    journal.append(Answered(number=0, share=0.25, answer=answered(genomes[0]), at_s=1.0))
    journal.append(Answered(number=0, share=1.0, answer=answered(genomes[0]), at_s=2.0))
    journal.append(Answered(number=1, share=0.25, answer=answered(genomes[1]), at_s=3.0))
    journal.close()
    found, reference, answers = replay.read_journal(path, 1.0)
    assert list(found.values()) == genomes
    assert reference.figures == REFERENCE
    assert answers == {0: answered(genomes[0])}
