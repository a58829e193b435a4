"""The driver of a search: what to ask next, what to carry out, whom to tell; all of it decided by the journal's events.

Whatever changes the state is an event, and the state depends on events alone. So a journal that is replayed brings a
search back to where it was, whoever killed it: trials that had no answer yet are carried out again.

Generations are synchronous unless the params say otherwise: a batch is asked, carried out, and told in the order of
asking, so that the answers' order, and with it the number of workers, has no part in what is proposed.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from compression_gate.errors import ParamsError, SearchError
from compression_gate.methods.chain import method_of, trains
from compression_gate.records.params import Step
from compression_gate.records.recipe import recipe_digest
from compression_gate.records.search_params import SearchParams
from compression_gate.records.trial import Answer, Trial
from compression_gate.search.base import Proposal, Request, Searcher
from compression_gate.search.journal import Answered, Asked, Event, Journal, Reference
from compression_gate.search.objective import Goal
from compression_gate.search.proxy import correlation_of, order_of
from compression_gate.search.space import Space
from compression_gate.search.standings import Standings

EXPLORED = 8  # one in so many of those that the proxy would drop is carried out all the same
USED_UP = 10  # generations in a row of chains that are known already


@dataclass(kw_only=True)
class Pending:
    """A proposal on its way.

    Args:
        refusal: why the chain cannot even be built.
        share: of the training examples with which it is to be carried out next.
        cheap: what came of it with the fewest; None where it was carried out in full at once.
    """

    number: int
    proposal: Proposal
    steps: tuple[Step, ...] = ()
    digest: str = ""
    refusal: str | None = None
    share: float
    cheap: Answer | None = None
    dropped: bool = False


class Driver:
    """One search.

    Args:
        on_told: called with every trial once it is told, on a replay as well.
    """

    def __init__(
        self,
        space: Space,
        searcher: Searcher,
        goal: Goal,
        params: SearchParams,
        journal: Journal,
        on_told: Callable[[Trial], None] = lambda trial: None,
    ) -> None:
        self.space, self.searcher, self.goal, self.params = space, searcher, goal, params
        self.journal, self.on_told = journal, on_told
        self.untimed = dataclasses.replace(goal, timed=False)  # for trials with fewer training data
        self.full = params.train_share
        self.standings = Standings(goal=goal, full=self.full, proxy_on=params.proxy is not None)
        self.asked = 0
        self.batch: list[Pending] = []  # in the order of asking; those of one generation where that is synchronous
        self.places: dict[tuple[str, float], int] = {}  # where an answer begins in the journal
        self.sent: set[tuple[str, float]] = set()
        self.coins = random.Random(params.seed)  # noqa: S311  # coins, not secrets
        self.pairs: list[tuple[float, float]] = []  # quality lost, cheap and full
        self.known_in_a_row = 0
        self.replaying = False

    # What the loop asks.

    @property
    def end(self) -> str | None:
        """What ends the search, but for the clock and whoever watches it; None while it goes on."""
        budget, told = self.params.budget, self.standings.told
        if self.small_enough:
            return f"{budget.size_bytes:,} bytes reached"
        if budget.trials is not None and told >= budget.trials:
            return f"{told} trials"
        if self.used_up and all(self.is_answered(one) for one in self.batch):
            return f"a space that seems to hold no more chains ({self.known_in_a_row} proposals in a row were known)"
        return None

    @property
    def done(self) -> bool:
        """Whether anything ends it."""
        return self.end is not None

    @property
    def spent(self) -> bool:
        """Whether the budget holds no further question."""
        trials = self.params.budget.trials
        return trials is not None and self.asked >= trials

    @property
    def used_up(self) -> bool:
        """Whether nothing new was proposed for so long that nothing new is to be expected."""
        return self.known_in_a_row >= USED_UP * self.params.population

    @property
    def small_enough(self) -> bool:
        """Whether a feasible candidate has the size that was wanted."""
        wanted = self.params.budget.size_bytes
        return wanted is not None and self.standings.smallest <= wanted

    def wants(self, free: int) -> bool:
        """Whether another proposal is to be asked for now; ``free``: how many trials more could run."""
        if self.done or self.spent or self.used_up:
            return False
        if self.params.synchronous:
            return self.is_open
        return free > len(list(self.requests(peek=True)))

    def requests(self, *, peek: bool = False) -> Iterator[Request]:
        """What is to be carried out and was not sent yet; equal recipes once."""
        seen: set[tuple[str, float]] = set()
        for one in self.batch:
            key = (one.digest, one.share)
            if one.refusal or one.dropped or key in self.places or key in self.sent or key in seen:
                continue
            seen.add(key)
            if not peek:
                self.sent.add(key)
            steps = tuple(step.model_dump(mode="json") for step in one.steps)
            yield Request(number=one.number, steps=steps, share=one.share)

    @property
    def is_open(self) -> bool:
        """Whether the generation at hand takes more: until it is full, or the budget is spent.

        A replay knows no budget: of two runs the later one fills the generation that the budget of the earlier ended.
        """
        return len(self.batch) < self.params.population and (self.replaying or not self.spent)

    @property
    def behind(self) -> int:
        """Of how many of the batch at hand it is known what came of them, though the searcher is not told yet."""
        return sum(self.is_answered(one) for one in self.batch)

    # Events.

    def ask(self) -> None:
        """Ask the searcher, and write down what it proposed."""
        proposal = self.searcher.ask()
        self.journal.append(Asked(number=self.asked, genome=proposal.genome, origin=proposal.origin))
        self.add(proposal)

    def answer(self, number: int, answer: Answer, at_s: float) -> None:
        """Write down what came of a trial, and go on from there."""
        one = next(one for one in self.batch if one.number == number)
        event = Answered(number=number, share=one.share, answer=answer, at_s=round(at_s, 3))
        self.enter(event, self.journal.append(event))

    def replay(self, events: Iterable[tuple[int, Event]]) -> None:
        """Take up a journal: its events, each with the place where its line begins.

        Raises:
            SearchError: the searcher proposes something else than it did, or the journal is damaged.
        """
        self.replaying = True
        for place, event in events:
            self.take(place, event)
        self.replaying = False
        self.settle()

    def take(self, place: int, event: Event) -> None:
        """Take one event from the journal."""
        if isinstance(event, Reference):
            raise SearchError(f"{self.journal.path}: the reference's figures stand there twice: the file is damaged")
        if isinstance(event, Answered):
            self.enter(event, place)
            return
        proposal = self.searcher.ask()
        if event.number != self.asked or proposal.genome != event.genome:
            raise SearchError(
                f"{self.journal.path}: trial {event.number}: expected the genome that the searcher proposes for this "
                "seed, got another: the journal was written by another version: begin anew without --resume"
            )
        self.add(proposal)

    def add(self, proposal: Proposal) -> None:
        """Put a proposal on its way; where its chain is known, it is answered already."""
        one = Pending(number=self.asked, proposal=proposal, share=self.full)
        self.asked += 1
        try:
            one.steps = self.space.steps_of(proposal.genome)
            one.digest = recipe_digest(one.steps)
        except ParamsError as error:
            one.refusal = str(error)
        proxy = self.params.proxy if self.standings.proxy_on else None
        if proxy is not None and any(trains(method_of(step)) for step in one.steps):
            one.share = proxy.shares[0]
        self.known_in_a_row = 0 if self.is_new(one) else self.known_in_a_row + 1
        self.batch.append(one)
        self.settle()

    def is_new(self, one: Pending) -> bool:
        """Whether a candidate's chain can be built, and was not proposed before."""
        known = (one.digest, one.share) in self.places or any(other.digest == one.digest for other in self.batch)
        return one.refusal is None and not known

    def enter(self, event: Answered, place: int) -> None:
        """Note where an answer is, and tell whoever waited for it."""
        one = next((one for one in self.batch if one.number == event.number), None)
        if one is None or event.share < one.share:  # more than asked: its generation was once cut short by a budget
            raise SearchError(f"{self.journal.path}: an answer to trial {event.number}, which nobody asked for")
        self.places[one.digest, event.share] = place
        self.sent.discard((one.digest, event.share))
        self.standings.seconds = event.at_s
        self.settle()

    # What follows from them.

    def settle(self) -> None:
        """Tell the searcher what can be told: of a whole generation, or whatever has an answer."""
        if not self.params.synchronous:
            for one in [one for one in self.batch if self.is_answered(one)]:
                self.batch.remove(one)
                self.tell(one)
            return
        if self.is_open or not all(self.is_answered(one) for one in self.batch):
            return
        if any(one.share < self.full for one in self.batch if not one.dropped):
            self.screen()
            self.settle()
            return
        batch, self.batch = self.batch, []
        for one in batch:
            self.tell(one)
        self.watch_proxy(batch)

    def is_answered(self, one: Pending) -> bool:
        """Whether there is something to tell of a candidate."""
        return one.refusal is not None or one.dropped or (one.digest, one.share) in self.places

    def answered_of(self, one: Pending) -> Answered:
        """What came of a candidate: of it, or of an earlier one with the same chain."""
        if one.refusal is not None:
            refused = Answer(reason=f"refused: {one.refusal}")
            return Answered(number=one.number, share=one.share, answer=refused, at_s=self.standings.seconds)
        answered = self.journal.answered_at(self.places[one.digest, one.share])
        return answered.model_copy(update={"answer": self.goal_for(one).judged(answered.answer)})

    def goal_for(self, one: Pending) -> Goal:
        """What a candidate is held against, at the share of the training data that it has come to."""
        return self.goal if one.share >= self.full else self.untimed

    def screen(self) -> None:
        """Choose those of a batch that are worth more of the training data; all are, until the proxy was measured."""
        assert self.params.proxy is not None  # nothing else makes a share
        cheap = [one for one in self.batch if one.share < self.full and not one.dropped]
        answers = [self.answered_of(one).answer for one in cheap]
        scores = [self.untimed.score(answer) for answer in answers]
        measured = self.standings.proxy is not None and self.standings.proxy.value is not None
        kept = max(1, round(self.params.proxy.keep * len(cheap))) if measured else len(cheap)
        shares = (*self.params.proxy.shares, self.full)
        for place, index in enumerate(order_of(scores)):
            explored = self.coins.random() < 1 / EXPLORED
            one = cheap[index]
            one.cheap = one.cheap or answers[index]
            one.dropped = not scores[index].complete or not (place < kept or explored)
            if not one.dropped:
                one.share = shares[shares.index(one.share) + 1] if place < kept else self.full

    def watch_proxy(self, batch: list[Pending]) -> None:
        """Hold what cheap trials lost against what full ones do; switch the proxy off where it does not predict."""
        proxy = self.params.proxy
        if proxy is None or not self.standings.proxy_on:
            return
        for one in batch:
            if one.cheap is None or one.dropped:
                continue
            full = self.answered_of(one).answer
            if full.complete:
                lost = [self.goal.quality_lost(answer.figures) for answer in (one.cheap, full)]
                self.pairs.append((lost[0], lost[1]))
        self.standings.proxy = correlation_of([cheap for cheap, _ in self.pairs], [full for _, full in self.pairs])
        self.standings.proxy_on = self.standings.proxy.may_predict(proxy.least_correlation)

    def tell(self, one: Pending) -> None:
        """Tell the searcher of a candidate, and note what it is worth."""
        self.searcher.tell(one.proposal, self.goal_for(one).score(self.answered_of(one).answer))
        self.note(one)

    def count_open(self) -> None:
        """Note those of an unfinished generation that were carried out in full: the search ends here.

        The searcher is not told, so that a search that is resumed goes on as if it had not ended.
        """
        for one in self.batch:
            if one.share == self.full and not one.dropped and self.is_answered(one):
                self.note(one)

    def note(self, one: Pending) -> None:
        """Note what a candidate is worth."""
        answered = self.answered_of(one)
        score = self.goal_for(one).score(answered.answer)
        trial = Trial(
            number=one.number,
            genome=one.proposal.genome,
            origin=one.proposal.origin,
            steps=one.steps,
            recipe_digest=one.digest,
            share=one.share,
            answer=answered.answer,
            cached=answered.number != one.number,
            told_s=self.standings.seconds,
        )
        self.standings.weigh(trial, score)
        self.on_told(trial)
