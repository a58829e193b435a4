"""What a search prints and draws: everything it found, whatever it found, and nothing that runs."""

import dataclasses
import math
import random

import pytest
from rich.console import Console, Group

from compression_gate.records.search import Improvement, Placed, ProxyRecord, Row, SearchRecord
from compression_gate.records.trial import Answer, Distance, Trial
from compression_gate.reporters import search, search_page

OBJECTIVES = ("quality", "size_bytes", "latency")


def trial(number, lost, size, *, verdict="pass", checks=()):
    figures = {"accuracy": 0.9 - lost, "size_bytes": size, "compression_ratio": 1000 / size, "latency_ratio": 0.5}
    return Trial(
        number=number,
        genome={},
        origin="random",
        steps=({"method": "low_rank"},),
        recipe_digest=f"{number:064d}",
        answer=Answer(figures=figures, checks=checks, verdict=verdict),
    )


def rows(count=80):
    """Trials whose bytes follow the ratio, and whose quality follows the bits where that step is in the chain."""
    coins, found = random.Random(0), []
    for number in range(count):
        genome = {
            "0.pick": coins.choice(["left out", "0.structured_pruning"]),
            "0.structured_pruning.pruning_ratio": coins.random(),
            "1.pick": coins.choice(["1.static_quantization", "1.weight_only_quantization"]),
            "1.weight_only_quantization.bits": coins.choice([2, 4, 8]),
            "1.place": coins.random(),
        }
        ratio = genome["0.structured_pruning.pruning_ratio"] if genome["0.pick"] != "left out" else 0.0
        bits = genome["1.weight_only_quantization.bits"] if genome["1.pick"].endswith("only_quantization") else 8
        values = (0.1 / bits + coins.random() * 0.001, 1 - ratio, 0.5 + coins.random() * 0.1)
        found.append(Row(number=number, genome=genome, values=values, feasible=bits > 2, full=True))
    return found


def record(**changes):
    front = tuple(
        Placed(values=(lost, size / 1000, 0.5), trial=trial(number, lost, size), recipe=f"recipes/found/{number}.yaml")
        for number, lost, size in ((1, 0.0, 800), (2, 0.004, 500))
    )
    values = {
        "name": "found",
        "searcher": "genetic",
        "executor": "local",
        "seed": 0,
        "digest": "d",
        "package_version": "1",
        "objectives": OBJECTIVES,
        "metric": "accuracy",
        "reference": {"accuracy": 0.9},
        "reference_digest": "r",
        "trials": 80,
        "failed": 3,
        "cached": 5,
        "feasible": 60,
        "seconds": 123.0,
        "ended": "80 trials",
        "best": front[1].trial,
        "recipe": "recipes/found.yaml",
        "front": front,
        "course": (
            Improvement(told=1, at_s=1, size_bytes=900, quality_lost=0),
            Improvement(told=40, at_s=60, size_bytes=500, quality_lost=0.004),
        ),
    }
    return SearchRecord(**values | changes)


MISSED = record(
    best=None,
    front=(),
    course=(),
    recipe="recipes/found.nearest_miss.yaml",
    nearest=trial(
        7,
        0.05,
        400,
        verdict="fail",
        checks=(
            Distance(rule="accuracy", status="fail", distance=0.4, blocking=True),
            Distance(rule="size", status="pass", distance=0.0, blocking=False),
            Distance(rule="classes", slice="class=3", status="error", distance=None, blocking=True),
        ),
    ),
    unmet={"accuracy": 0.3, "classes class=3": None},
)
NOTHING = record(best=None, nearest=None, front=(), course=(), recipe=None, feasible=0, failed=80)


def printed(one):
    console = Console(width=160, record=True, highlight=False)
    with console.capture() as captured:
        console.print(Group(*search.parts_of(one)))
    return captured.get()


def test_what_was_found_is_told_with_the_line_that_adopts_it():
    text = printed(record())
    assert "Found: 500 bytes, 2.0 × smaller, 0.40 points of accuracy lost (proven on validation data)." in text
    assert "80 trials by genetic, seed 0: 60 feasible, 3 failed, 5 known already; 123 s; ended by 80 trials" in text
    assert "recipe: recipes/found.yaml" in text


STARTS = {  # bytes of what the search started from, its verdict, what is told, whether the recipe is to be adopted
    "smaller": (1000, "pass", "; 50.0% fewer bytes than what the search started from.", True),
    "as small": (500, "pass", "; no better by size_bytes than what the search started from.", False),
    "no recipe": (100, "fail", "; what the search started from does not pass.", True),
}


@pytest.mark.parametrize(("size", "verdict", "words", "adopts"), STARTS.values(), ids=STARTS)
def test_what_was_found_is_held_against_what_the_search_started_from(size, verdict, words, adopts):
    one = record(start=trial(0, 0.0, size, verdict=verdict))
    assert words in search.headline(one)
    assert one.improves == adopts
    assert ("recipe: recipes/found.yaml" in printed(one)) == adopts


def test_what_is_gained_over_chance_is_told_at_the_trials_that_both_had():
    course = (Improvement(told=10, at_s=1, size_bytes=1000, quality_lost=0),)
    chance = record(name="chance", searcher="random", trials=30, course=course, space_digest="s")
    elsewhere = record(name="elsewhere", searcher="random", space_digest="t")
    one = record(space_digest="s").beside([chance, elsewhere, record(name="other", space_digest="s")])
    assert [control.name for control in one.controls] == ["chance"]
    line = "after 30 trials: 900 bytes, random (chance) 1,000 bytes (-10.0%)"
    assert line in printed(one)
    assert line in search_page.rendered(one, rows())
    late = record(space_digest="s").beside([chance.model_copy(update={"course": ()})])
    assert "random (chance) nothing that passes" in printed(late)


def test_without_a_control_the_line_that_runs_one_is_told():
    assert "compression-gate search --searcher random --name random --trials 80" in printed(record())
    assert "--searcher random" not in printed(record(searcher="uniform"))


@pytest.mark.parametrize(
    ("metric", "figures", "words"),
    [
        ("accuracy", (0.9, 0.95), "5.00 points of accuracy won"),
        ("rmse", (2.0, 2.031), "rmse worse by 0.0310"),
        ("rmse", (2.0, 1.5), "rmse better by 0.500"),
        ("dice", (2.0, 1.5), "dice worse by 0.500"),
    ],
)
def test_quality_is_told_in_the_unit_and_the_direction_of_its_metric(metric, figures, words):
    best = trial(1, 0.0, 500)
    best = best.model_copy(
        update={"answer": best.answer.model_copy(update={"figures": best.answer.figures | {metric: figures[1]}})}
    )
    better = -1 if metric == "rmse" else 1
    one = record(metric=metric, better=better, reference={metric: figures[0]}, best=best)
    assert words in search.headline(one)
    html = search_page.rendered(one, rows())
    assert words in html
    assert (f"points of {metric} lost" in html) == (metric == "accuracy")


def test_axes_and_tables_count_in_the_same_unit():
    points, error, cost = (search.told_as(*of) for of in (("quality", "f1"), ("quality", "mae"), ("macs", "f1")))
    assert (points.text(0.0123), points.tick(0.0123)) == ("+1.23", "1.23")
    assert (error.text(0.0123), error.tick(0.0123)) == ("+0.0123", "0.0123")
    assert (cost.text(0.0123), cost.tick(0.0123)) == ("1.2%", "1.23")


def test_the_front_tells_bytes_once_and_which_recipe_it_is():
    text = printed(record())
    assert "500 (50.0%)" in text
    assert text.count("500") == 2  # in the first line, and here
    assert f"{2:064d}"[:8] in text
    without = printed(record(objectives=("quality", "macs", "latency")))
    assert " 500 " in without


def test_a_search_for_costs_alone_draws_what_it_was_for():
    html = search_page.rendered(record(objectives=("macs", "size_bytes", "latency")), rows())
    assert "MACs, by bytes" in html
    assert "accuracy lost, by" not in html


def test_a_miss_is_told_with_its_distance_to_every_limit():
    text = printed(MISSED)
    assert "No recipe meets every limit. The nearest misses by 140.0% in all." in text
    assert "accuracy: fail, 40.0% of its limit beyond it" in text
    assert "size: within its limit" in text
    assert "classes class=3: error" in text
    assert "no trial met accuracy; the closest was 30.0% of it beyond" in text
    assert text.rstrip().splitlines()[-3].strip() == "no trial met classes class=3"


def test_a_search_that_measured_nothing_says_where_to_look():
    text = printed(NOTHING)
    assert "none of 80 trials could be measured" in text
    assert "trials.csv" in text


PROXIES = {
    "too few": (ProxyRecord(pairs=3, used=True), "3 pairs with full ones, too few to tell"),
    "always the same": (ProxyRecord(pairs=24), "always the same: they do not predict, and were switched off"),
    "predicts": (
        ProxyRecord(pairs=20, correlation=0.8, low=0.7, high=0.9, used=True),
        "rank correlation 0.80 (0.70 to 0.90",
    ),
    "does not": (
        ProxyRecord(pairs=20, correlation=0.1, low=-0.2, high=0.4),
        "they do not predict, and were switched off",
    ),
}


@pytest.mark.parametrize(("proxy", "words"), PROXIES.values(), ids=PROXIES)
def test_what_cheap_trials_were_worth_is_told(proxy, words):
    assert words in printed(record(proxy=proxy))


def test_a_long_front_is_shown_in_part_with_both_ends():
    front = tuple(
        Placed(values=(index / 100, 1 - index / 40, 0.5), trial=trial(index, index / 100, 1000 - index), recipe="r")
        for index in range(30)
    )
    text = printed(record(front=front))
    assert "12 of 30" in text
    assert "+0.00" in text
    assert "+29.00" in text


PAGES = {"found": record(), "missed": MISSED, "nothing": NOTHING}


@pytest.mark.parametrize("one", PAGES.values(), ids=PAGES)
@pytest.mark.parametrize("count", [0, 2, 80])
def test_the_page_holds_what_there_is_whatever_there_is(one, count):
    others = [record(name="control", searcher="random")]
    html = search_page.rendered(one, rows(count), others)
    assert search.headline(one).partition(":")[0] in html
    assert "nan" not in html.lower().replace("nanometre", "")
    assert ("What each choice alone explains" in html) == (count == 80)
    assert "Course" in html


def test_the_same_search_gives_the_same_page():
    assert search_page.rendered(record(), rows()) == search_page.rendered(record(), rows())


def test_names_of_others_are_escaped():
    hostile = record(name="<script>alert(1)</script>", searcher="<img src=x>", ended="<b>")
    html = search_page.rendered(hostile, rows())
    assert "<script>alert(1)" not in html
    assert "<img src=x>" not in html


def test_what_a_choice_explains_is_found():
    found = {one.gene: one.shares for one in search_page.influences_of(rows(), len(OBJECTIVES))}
    assert found["1.weight_only_quantization.bits"][0] > 0.8
    assert found["0.structured_pruning.pruning_ratio"][1] > 0.8
    assert found["1.pick"][0] > 0.2
    assert max(found.get("1.place", (0.0,))) < 0.15


def test_a_gene_counts_only_where_its_step_is_in_the_chain():
    some = rows()
    groups = search_page.groups_of(some, "1.weight_only_quantization.bits")
    picked = [row.genome["1.pick"].endswith("only_quantization") for row in some]
    assert [group >= 0 for group in groups] == picked


@pytest.mark.parametrize("seed", range(5))
def test_chance_explains_nothing_on_average(seed):
    """ω² of a gene that has no part in it is zero but for chance: never much with 200 trials."""
    coins = random.Random(seed)
    some = [
        Row(number=i, genome={"0.a.x": coins.random()}, values=(coins.random(),), feasible=True, full=True)
        for i in range(200)
    ]
    assert all(one.largest < 0.1 for one in search_page.influences_of(some, 1))


def test_genes_are_named_in_words():
    some = rows()
    assert search_page.label_of("0.pick", some) == "structured pruning: in or out"
    assert search_page.label_of("1.pick", some) == "slot 2: which"
    assert search_page.label_of("1.place", some) == "slot 2: place in the chain"
    assert search_page.label_of("0.structured_pruning.pruning_ratio", some) == "structured pruning pruning ratio"


def test_progress_says_where_it_is():
    moment = search.Moment(
        told=12,
        failed=1,
        feasible=8,
        front=[],
        best=trial(3, 0, 500),
        left="4 trials left",
        objectives=OBJECTIVES,
        metric="accuracy",
    )
    assert search.line_of(moment) == "12 trials, 8 feasible, front of 0, 1 failed, best 500 bytes; 4 trials left"
    none = dataclasses.replace(moment, best=None, feasible=0, unmet=("size", "speed"))
    assert search.line_of(none) == "12 trials, 0 feasible, front of 0, 1 failed, none met size, speed; 4 trials left"
    amid = dataclasses.replace(moment, behind=5, batch=16)
    assert search.line_of(amid).endswith("best 500 bytes, 5 of the next 16 carried out; 4 trials left")
    assert math.isclose(MISSED.nearest.answer.violation, 1.4)
