"""Searchers: one file each, listed here, loaded when named."""

from __future__ import annotations

from compression_gate.registry import Plugin

SEARCHERS: dict[str, Plugin] = {
    "genetic": Plugin(
        target="compression_gate.search.genetic:Genetic",
        summary="NSGA-II: generations, by dominance and crowding",
    ),
    "reinforcement": Plugin(
        target="compression_gate.search.reinforcement:Reinforcement",
        summary="a policy that walks through the chain gene by gene and layer by layer, rewarded by the trial",
    ),
    "hybrid": Plugin(
        target="compression_gate.search.hybrid:Hybrid",
        summary="a genetic population proposes chains, a policy tunes the strengths of the best",
    ),
    "tpe": Plugin(
        target="compression_gate.search.tpe:TreeParzen",
        summary="tree-structured Parzen estimators of what good and bad trials have in common",
    ),
    "uniform": Plugin(
        target="compression_gate.search.uniform:Uniform",
        summary="control: one strength for all, from gentle to hard",
    ),
    "ilp": Plugin(
        target="compression_gate.search.ilp:Ilp",
        summary="control: strengths by layer as an integer programme spreads them by the table of sensitivities",
    ),
    "random": Plugin(
        target="compression_gate.search.random_search:Random",
        summary="control: every value of every choice equally likely",
    ),
}
