"""The space of recipes: slots declared in `params.yaml`, flat genomes, and the chain that a genome stands for.

A genome has the same genes whatever chain it stands for: what is not used now is kept for later generations. Chains are
of any length nevertheless, since a slot may be left out, and come in any order that makes sense: each slot has a place
in [0, 1), and steps are applied in the order of their places, moved where a rule forbids that.

Source: J. C. Bean, Genetic Algorithms and Random Keys for Sequencing and Optimization, 1994, §2 (places).
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from itertools import combinations, product
from typing import Any

from compression_gate.errors import ParamsError
from compression_gate.methods.base import Method
from compression_gate.methods.chain import method_of, order_problems, recipe_of
from compression_gate.methods.sensitivity import STRENGTHS
from compression_gate.records.params import Step
from compression_gate.records.trial import Genome
from compression_gate.search.declared import WHERE, Written, WrittenSlot, all_of, written_slot
from compression_gate.search.genes import ByLayer, Choice, Gene, Number, any_by_layer, filled, flattened, grouped

LEFT_OUT = "left out"
PLACE = Number(low=0.0, high=1.0)


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """A step with open options.

    Args:
        name: of its genes.
        layers: the groups of layers that have strengths of their own, each a set of names that go together; for every
            option that is open by layer.
        units: all layers that the method can treat by themselves.
    """

    name: str
    method: str
    options: Mapping[str, Any]
    genes: Mapping[str, Gene | ByLayer]
    layers: tuple[tuple[str, ...], ...] = ()
    units: tuple[str, ...] = ()

    def flat(self) -> dict[str, Gene]:
        """Gene by name: ``structured_pruning.pruning_ratio``, or ``….bits.2`` for the third group of layers."""
        return {name: gene for key in self.genes for name, gene in self.genes_of(key).items()}

    def genes_of(self, key: str) -> dict[str, Gene]:
        """The genes of one option: one, or one for each group of layers."""
        gene = self.genes[key]
        if isinstance(gene, ByLayer):
            return {f"{self.name}.{key}.{index}": gene.gene for index in range(len(self.layers))}
        return {f"{self.name}.{key}": gene}

    def steps(self, genome: Genome) -> list[Step]:
        """The steps that a genome makes of it: one, or one for each strength that some group of layers has."""
        plain = {key: genome[f"{self.name}.{key}"] for key, gene in self.genes.items() if not isinstance(gene, ByLayer)}
        layered = [key for key, gene in self.genes.items() if isinstance(gene, ByLayer)]
        if not layered:
            return [Step.model_validate({"method": self.method, **filled(self.options, plain)})]
        by_strengths: dict[tuple[Any, ...], list[str]] = {}
        for index, group in enumerate(self.layers):
            strengths = tuple(genome[f"{self.name}.{key}.{index}"] for key in layered)
            if all(strengths):  # no ratio, no bits: the layers stay as they are
                by_strengths.setdefault(strengths, []).extend(group)
        found = []
        for strengths, members in by_strengths.items():
            values = plain | dict(zip(layered, strengths, strict=True))
            others = sorted(set(self.units) - set(members))
            options = filled(self.options, values) | ({"ignore": others} if others else {})
            found.append(Step.model_validate({"method": self.method, **options}))
        return found


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A place in the chain that one of several steps takes, or none."""

    name: str
    alternatives: tuple[Alternative, ...]
    optional: bool

    @cached_property
    def pick(self) -> Choice:
        """Which alternative is taken."""
        names = tuple(one.name for one in self.alternatives)
        return Choice(values=(LEFT_OUT, *names) if self.optional else names)

    def picked(self, genome: Genome) -> Alternative | None:
        """The alternative that a genome takes; None where it leaves the slot out."""
        name = genome[f"{self.name}.pick"]
        return next((one for one in self.alternatives if one.name == name), None)


@dataclass(frozen=True, kw_only=True)
class Space:
    """All recipes that may be proposed.

    Args:
        declared: what the slots were read from.
    """

    slots: tuple[Slot, ...]
    free_order: bool = True
    declared: tuple[Mapping[str, Any], ...] = ()

    @cached_property
    def genes(self) -> dict[str, Gene]:
        """Every gene by name, in a fixed order."""
        found: dict[str, Gene] = {}
        for slot in self.slots:
            if slot.pick.size > 1:
                found[f"{slot.name}.pick"] = slot.pick
            if self.free_order and len(self.slots) > 1:
                found[f"{slot.name}.place"] = PLACE
            for one in slot.alternatives:
                found |= one.flat()
        return found

    @property
    def layered(self) -> list[str]:
        """The methods that have strengths by layer somewhere."""
        steps = (one for slot in self.slots for one in slot.alternatives)
        return list(dict.fromkeys(one.method for one in steps if any_by_layer(one.genes)))

    def complete(self, genome: Genome) -> Genome:
        """The genome with the genes that leave no choice."""
        alone = {f"{slot.name}.pick": slot.pick.values[0] for slot in self.slots if slot.pick.size == 1}
        return {**alone, **genome}

    def sample(self, coins: random.Random) -> Genome:
        """A genome, every value of every gene equally likely."""
        return {name: gene.at(coins.random()) for name, gene in self.genes.items()}

    def genome_of(self, steps: Sequence[Step]) -> Genome | None:
        """A genome that stands for a chain, or for the nearest that the space has; None where a step has no slot."""
        genome = {name: gene.at(0.5) for name, gene in self.genes.items()}
        genome |= {f"{slot.name}.pick": LEFT_OUT for slot in self.slots if slot.optional}
        free = list(self.slots)
        for place, step in enumerate(steps):
            found = next(((slot, one) for slot in free for one in slot.alternatives if one.method == step.method), None)
            if found is None:
                return None
            slot, one = found
            free.remove(slot)
            genome |= {f"{slot.name}.pick": one.name, f"{slot.name}.place": (place + 0.5) / len(steps)}
            given = dict(flattened(step.options))
            for key in one.genes.keys() & given:
                genome |= {name: gene.nearest(given[key]) for name, gene in one.genes_of(key).items()}
        return {name: genome[name] for name in self.genes}

    def steps_of(self, genome: Genome) -> tuple[Step, ...]:
        """The chain that a genome stands for; always one whose order makes sense.

        A step that may stand nowhere beside those before it is left out, one of an optional slot first.

        Raises:
            ParamsError: an option that its method refuses.
        """
        genome = self.complete(genome)
        slots = [(slot, one) for slot in self.slots if (one := slot.picked(genome)) is not None]
        if self.free_order and len(self.slots) > 1:
            slots.sort(key=lambda pair: genome[f"{pair[0].name}.place"])
        steps = [(slot.optional, method_of(step)) for slot, one in slots for step in one.steps(genome)]
        methods = [method for _, method in steps]
        chain = self.chain_of(methods, range(len(steps)))
        if any(not optional and place not in chain for place, (optional, _) in enumerate(steps)):
            chain = self.chain_of(methods, sorted(range(len(steps)), key=lambda place: steps[place][0]))
        return recipe_of(methods[place] for place in chain).steps

    def chain_of(self, methods: Sequence[Method], order: Iterable[int]) -> list[int]:
        """Which methods stand in the chain one after the other, where each in turn is put in if it fits."""
        chain: list[int] = []
        for one in order:
            written = sum(other < one for other in chain)
            for place in range(len(chain), -1, -1) if self.free_order else (written,):
                longer = [*chain[:place], one, *chain[place:]]
                if not order_problems([methods[each] for each in longer], "steps"):
                    chain = longer
                    break
        return chain


@dataclass(frozen=True, kw_only=True)
class Units:
    """The layers that a method can treat by themselves: name -> all layers that go with it, most sensitive first."""

    of: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)


def space_of(
    declared: Sequence[Mapping[str, Any]], *, free_order: bool, units: Units | None = None, where: str = WHERE
) -> Space:
    """Read the declared slots.

    Args:
        units: asked for methods with strengths by layer; None while they are not known: layers have none then.

    Raises:
        ParamsError: every slot that cannot be read, an empty space, methods and options that do not exist, and slots
            that exclude each other. Each problem begins with its key path.
    """
    if not declared:
        raise ParamsError(f"{where}: expected at least one slot, got none: name a step, or leave the key out")
    paths = [f"{where}.{index}" for index in range(len(declared))]
    slots = all_of(
        partial(read_slot, slot, index, units, path)
        for index, (slot, path) in enumerate(zip(declared, paths, strict=True))
    )
    space = Space(slots=tuple(slots), free_order=free_order, declared=tuple(declared))
    if problems := contradictions(space, paths):
        raise ParamsError(problems)
    return space


def read_slot(declaration: Mapping[str, Any], index: int, units: Units | None, where: str) -> Slot:
    """Read one slot."""
    return slot_of(written_slot(declaration, where), index, units)


def slot_of(written: WrittenSlot, index: int, units: Units | None) -> Slot:
    """A slot with its genes."""
    names = [f"{index}.{step.method}" for step in written.steps]
    names = [name if names.count(name) == 1 else f"{name}.{number}" for number, name in enumerate(names)]
    steps = zip(written.steps, names, strict=True)
    alternatives = all_of(partial(alternative_of, step, name, units) for step, name in steps)
    return Slot(name=str(index), alternatives=tuple(alternatives), optional=written.optional)


def alternative_of(step: Written, name: str, units: Units | None) -> Alternative:
    """A step with its genes; every value of each is tried."""
    parts: dict[str, Any] = {}
    known = units.of.get(step.method, {}) if units is not None else {}
    if any_by_layer(step.genes) and (step.method not in STRENGTHS or (units is not None and not known)):
        raise ParamsError(f"{step.where}: {step.method} has no layers that it can treat one by one: give one strength")
    if any_by_layer(step.genes):
        groups = next(gene.groups for gene in step.genes.values() if isinstance(gene, ByLayer))
        parts["layers"] = tuple(
            tuple(member for unit in part for member in known[unit]) for part in grouped(known, groups)
        )
        parts["units"] = tuple(dict.fromkeys(member for members in known.values() for member in members))
    found = Alternative(name=name, method=step.method, options=step.options, genes=step.genes, **parts)
    check_options(found, step.where)
    return found


def check_options(alternative: Alternative, where: str) -> None:
    """Make a method at both ends of every gene, so that a wrong option is told before anything runs.

    Raises:
        ParamsError: every option that the method refuses.
    """
    problems: dict[str, None] = {}
    for genome in corners(alternative):
        for step in alternative.steps(genome):
            try:
                method_of(step)
            except ParamsError as error:
                problems |= dict.fromkeys(f"{where}.{text}" for text in error.problems)
    if problems:
        raise ParamsError(problems)


def corners(alternative: Alternative) -> Iterable[Genome]:
    """Genomes of one alternative that take each value of each gene, or each end of its range, at least once."""
    genes = alternative.flat()
    middle = {name: gene.at(0.0) for name, gene in genes.items()}
    yield middle
    for name, gene in genes.items():
        values = gene.values if isinstance(gene, Choice) else (gene.low, gene.high)
        yield from ({**middle, name: value} for value in values)


def contradictions(space: Space, where: Sequence[str]) -> list[str]:
    """Slots of which one is always there and the other never could be; in a written order any two must fit.

    Args:
        where: each slot's key path.
    """
    chains, problems = {slot.name: chains_of(slot) for slot in space.slots}, []
    for (first, second), (one, other) in zip(combinations(where, 2), combinations(space.slots, 2), strict=True):
        if space.free_order and one.optional and other.optional:
            continue
        pairs = [[*chain, *behind] for chain, behind in product(chains[one.name], chains[other.name])]
        if not any(len(space.chain_of(pair, range(len(pair)))) == len(pair) for pair in pairs):
            reason = order_problems(pairs[0], "")[0].partition(": ")[2].replace("step 0", first)
            problems.append(f"{second}: expected a step that may stand beside {first}: {reason}")
    return problems


def chains_of(slot: Slot) -> list[list[Method]]:
    """What a slot may come to, each alternative at each value of its genes."""
    return [[method_of(step) for step in one.steps(genome)] for one in slot.alternatives for genome in corners(one)]
