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
from functools import cached_property
from typing import Any

from compression_gate.errors import ParamsError
from compression_gate.methods.base import Method
from compression_gate.methods.chain import method_of, order_problems, recipe_of
from compression_gate.records.params import Step
from compression_gate.records.trial import Genome
from compression_gate.search.genes import LAYERED, ByLayer, Choice, Gene, Number, filled, flattened, genes_in, grouped

LEFT_OUT = "left out"
PLACE = Number(low=0.0, high=1.0)
WHERE = "params.yaml: search.space"
SLOT_KEYS = {"any_of", "optional"}


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
    """All recipes that may be proposed."""

    slots: tuple[Slot, ...]
    free_order: bool = True

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

        A step that may stand nowhere beside those before it is left out.

        Raises:
            ParamsError: an option that its method refuses.
        """
        genome = self.complete(genome)
        slots = [(slot, one) for slot in self.slots if (one := slot.picked(genome)) is not None]
        if self.free_order and len(self.slots) > 1:
            slots.sort(key=lambda pair: genome[f"{pair[0].name}.place"])
        chain: list[Method] = []
        for _, alternative in slots:
            for step in alternative.steps(genome):
                chain = inserted(chain, method_of(step))
        return recipe_of(chain).steps


def inserted(chain: Sequence[Method], method: Method) -> list[Method]:
    """The chain with a method at the last place where the order makes sense; as it was where there is none."""
    for place in range(len(chain), -1, -1):
        longer = [*chain[:place], method, *chain[place:]]
        if not order_problems(longer, "steps"):
            return longer
    return list(chain)


@dataclass(frozen=True, kw_only=True)
class Units:
    """The layers that a method can treat by themselves: name -> all layers that go with it, most sensitive first."""

    of: Mapping[str, Mapping[str, tuple[str, ...]]] = field(default_factory=dict)


def space_of(declared: Iterable[Mapping[str, Any]], *, free_order: bool, units: Units, where: str = WHERE) -> Space:
    """Read the declared slots.

    Args:
        units: asked for methods with strengths by layer.

    Raises:
        ParamsError: every slot that cannot be read, an empty space, methods and options that do not exist.
    """
    problems: list[str] = []
    slots: list[Slot] = []
    for index, declaration in enumerate(declared):
        try:
            slots.append(slot_of(declaration, index, units, f"{where}.{index}"))
        except ParamsError as error:
            problems += error.problems
    space = Space(slots=tuple(slots), free_order=free_order)
    try:
        check_options(space, where)
    except ParamsError as error:
        problems += error.problems
    if problems:
        raise ParamsError(problems)
    if not slots:
        raise ParamsError(f"{where}: expected at least one slot, got none: name a step, or leave the key out")
    return space


def slot_of(declaration: Mapping[str, Any], index: int, units: Units, where: str) -> Slot:
    """Read one slot: a step with open options, or ``any_of`` several."""
    optional = declaration.get("optional", False)
    if not isinstance(optional, bool):
        raise ParamsError(f"{where}.optional: expected true or false, got {optional!r}")
    if "any_of" in declaration:
        if unknown := set(declaration) - SLOT_KEYS:
            raise ParamsError(f"{where}: expected any_of and optional, got {', '.join(sorted(map(str, unknown)))} too")
        steps = declaration["any_of"]
        if not isinstance(steps, list) or not steps or not all(isinstance(step, Mapping) for step in steps):
            raise ParamsError(f"{where}.any_of: expected a list of steps, got {steps!r}")
    else:
        steps = [{key: value for key, value in declaration.items() if key != "optional"}]
    names = [f"{index}.{step.get('method')}" for step in steps]
    names = [name if names.count(name) == 1 else f"{name}.{number}" for number, name in enumerate(names)]
    alternatives = tuple(
        alternative_of(step, name, units, f"{where}.{name.partition('.')[2]}")
        for step, name in zip(steps, names, strict=True)
    )
    return Slot(name=str(index), alternatives=alternatives, optional=optional)


def alternative_of(step: Mapping[str, Any], name: str, units: Units, where: str) -> Alternative:
    """Read one step with open options."""
    if not isinstance(step.get("method"), str):
        raise ParamsError(f"{where}: expected the name of a method under method, got {step.get('method')!r}")
    options = {str(key): value for key, value in step.items() if key != "method"}
    genes = dict(genes_in(options, where))
    groups = {gene.groups for gene in genes.values() if isinstance(gene, ByLayer)}
    if len(groups) > 1:
        raise ParamsError(f"{where}: expected one grouping of layers for all options of a step, got several")
    if not groups:
        return Alternative(name=name, method=step["method"], options=options, genes=genes)
    if "ignore" in options:
        raise ParamsError(f"{where}: expected no ignore beside strengths by layer, got {options['ignore']!r}")
    known = units.of.get(step["method"], {})
    if not known:
        raise ParamsError(f"{where}: {step['method']} has no layers that it can treat one by one: give one strength")
    parts = grouped(known, next(iter(groups)))
    return Alternative(
        name=name,
        method=step["method"],
        options=options,
        genes=genes,
        layers=tuple(tuple(member for unit in part for member in known[unit]) for part in parts),
        units=tuple(dict.fromkeys(member for members in known.values() for member in members)),
    )


def layered_methods(declared: Iterable[Mapping[str, Any]]) -> list[str]:
    """The methods that have strengths by layer somewhere in a declared space, whatever is wrong with the rest of it."""
    steps = [step for slot in declared for step in (slot.get("any_of") or [slot]) if isinstance(step, Mapping)]
    return list(dict.fromkeys(str(step.get("method")) for step in steps if has_layers(step)))


def has_layers(options: Mapping[str, Any]) -> bool:
    """Whether an option, or one inside it, is open by layer."""
    inner = [value for value in options.values() if isinstance(value, Mapping)]
    return any(not set(LAYERED).isdisjoint(value) or has_layers(value) for value in inner)


def check_options(space: Space, where: str) -> None:
    """Make every method at both ends of every gene, so that a wrong option is told before anything runs.

    Raises:
        ParamsError: every option that some method refuses.
    """
    problems: dict[str, None] = {}
    for slot in space.slots:
        for one in slot.alternatives:
            for genome in corners(one):
                for step in one.steps(genome):
                    try:
                        method_of(step)
                    except ParamsError as error:
                        problems |= dict.fromkeys(f"{where}.{one.name}: {text}" for text in error.problems)
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
