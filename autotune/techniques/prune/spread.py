"""Spread a cut from the outputs of one layer over everything that has to be cut with it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import prod

import numpy as np

from autotune.techniques.prune.graph import Graph, Port
from autotune.techniques.prune.relation import HEADS, Relation, Tie, Way
from autotune.techniques.prune.rules import relation_of

_ATTEMPTS = 24  # combinations of ways through Reshapes and grouped convolutions that are tried
_FINER = 8  # of them, in search of one that leaves more to choose from

Place = tuple[str, int]  # a node's name, and which of its choices


@dataclass(frozen=True)
class Group:
    """Axis positions that are cut together. `classes`: port -> for each position the number of the class that it goes
    with (0 to count - 1), -1 where the group leaves it alone. `stops` is empty where the group can be cut, else it
    says what prevents it. `ways`: the ways that were taken where nodes leave a choice. `heads`: how many heads of
    attention there are in all classes together, 0 where it has none."""

    classes: Mapping[Port, np.ndarray]
    count: int
    tags: frozenset[str]
    stops: tuple[str, ...]
    ways: Mapping[Place, int] = field(default_factory=dict)
    heads: int = 0

    def on(self, port: Port) -> np.ndarray | None:
        """The classes of a port's positions, None where the group does not reach it."""
        return self.classes.get(port)

    def shares(self, other: Group) -> bool:
        """Whether a position belongs to both."""
        both = self.classes.keys() & other.classes.keys()
        return any(((self.classes[port] >= 0) & (other.classes[port] >= 0)).any() for port in both)


class Analysis:
    """Groups of one graph. What nodes say is worked out once, in order, and sizes that vary are followed on the way.

    Where nodes leave a choice of how to cut through them (a Reshape to heads x size), combinations are tried. Once a
    group is settled, all others take the same ways: then the ties between positions are the same for every group, and
    two groups are equal where they meet or have no position in common.
    """

    def __init__(self, graph: Graph, ways: Mapping[Place, int] | None = None) -> None:
        """`ways` that are settled already, of this graph or of one that it was made from."""
        self.graph = graph
        self.relations = [relation_of(graph, number) for number in range(len(graph.nodes))]
        self.ways: dict[Place, int] = dict(ways or {})

    def settle(self, group: Group) -> None:
        """The group may be cut: all that are found from now on must go with it."""
        self.ways.update(group.ways)

    def group(self, seed: Port) -> Group:
        """The group of a port whose size is known. Combinations are tried in a fixed order until one goes through:
        first those that cut whole heads. Without heads, one that leaves more to choose from is taken in its place."""
        first: Group | None = None
        found: Group | None = None
        free = False
        for group, others in self._attempts(seed, _ATTEMPTS, finest=False):
            first, free = first or group, others
            if _goes(group):
                found = group
                break
        assert first is not None
        if found is None or not free or HEADS in found.tags:
            return found or first
        for group, _ in self._attempts(seed, _FINER, finest=True):
            if found.count == self.graph.size(seed):
                break
            if _goes(group) and group.count > found.count:
                found = group
        return found

    def _attempts(self, seed: Port, most: int, *, finest: bool) -> Iterator[tuple[Group, bool]]:
        """(what a combination gives, whether there are others). `finest`: Reshapes by their largest factor first."""
        script: list[int] = []
        for _ in range(most):
            attempt = _Attempt(self, seed, script, finest)
            yield attempt.run(), bool(attempt.options)
            following = _next(attempt.taken, attempt.options)
            if following is None:
                break
            script = following


def _goes(group: Group) -> bool:
    return not group.stops and group.count > 1


def _next(taken: list[int], options: list[int]) -> list[int] | None:
    """The combination after this one: the last decision that has another way takes it."""
    for at in reversed(range(len(taken))):
        if taken[at] + 1 < options[at]:
            return [*taken[:at], taken[at] + 1]
    return None


@dataclass
class _Attempt:
    """One combination of ways."""

    analysis: Analysis
    seed: Port
    script: list[int]
    finest: bool
    labels: dict[Port, np.ndarray] = field(default_factory=dict)  # position -> position of the seed, -1 for none
    axes: dict[str, set[int]] = field(default_factory=dict)  # tensor -> its labelled axes
    taken: list[int] = field(default_factory=list)
    options: list[int] = field(default_factory=list)
    decided: dict[Place, int | None] = field(default_factory=dict)  # None: no way fits
    stops: dict[str, None] = field(default_factory=dict)
    tags: set[str] = field(default_factory=set)
    heads: int = 0

    def run(self) -> Group:
        size = self.analysis.graph.size(self.seed)
        assert size is not None
        self.root = np.arange(size)
        self.queue: deque[int] = deque()
        self.waiting: set[int] = set()
        self._label(self.seed, np.arange(size))
        while self.queue:
            number = self.queue.popleft()
            self.waiting.discard(number)
            self._visit(number)
        _, numbers = np.unique(self.root, return_inverse=True)
        classes = {port: np.where(label >= 0, numbers[label], -1) for port, label in self.labels.items()}
        ways = {place: way for place, way in self.decided.items() if way is not None}
        return Group(classes, int(numbers.max()) + 1, frozenset(self.tags), tuple(self.stops), ways, self.heads)

    def _label(self, port: Port, labels: np.ndarray) -> None:
        graph = self.analysis.graph
        tensor = port[0]
        self.labels[port] = labels
        self.axes.setdefault(tensor, set()).add(port[1])
        producer = graph.producer.get(tensor)
        if tensor in graph.outputs:
            self.stops.setdefault(f"it reaches the model's output {tensor!r}")
        if producer is None and not graph.is_constant(tensor):
            self.stops.setdefault(f"it reaches the model's input {tensor!r}")
        for number in [*([] if producer is None else [producer]), *graph.readers.get(tensor, [])]:
            if number not in self.waiting:
                self.waiting.add(number)
                self.queue.append(number)

    def _visit(self, number: int) -> None:
        relation = self.analysis.relations[number]
        ways = [relation.always, *self._ways(relation)]
        allowed = set().union(*(way.ports for way in ways))
        for port in self._labelled(number):
            if port not in allowed or port in relation.forbidden:
                self.stops.setdefault(relation.why_not(port))
            for way in ways:
                tags = way.ports.get(port, set())
                self.tags |= tags
                if HEADS in tags:
                    self.heads = max(self.heads, self._heads(port, way))
        for way in ways:
            for tie in way.ties:
                self._apply(tie)

    def _heads(self, port: Port, way: Way) -> int:
        """How many heads a product has: another batch axis than the first one counts them within those of a port."""
        size = self.analysis.graph.size
        beside = [p for p, tags in way.ports.items() if HEADS in tags and p[0] == port[0] and 0 < p[1] != port[1]]
        return int((self.labels[port] >= 0).sum()) * prod(size(each) or 1 for each in beside)

    def _labelled(self, number: int) -> list[Port]:
        graph = self.analysis.graph
        names = dict.fromkeys((*graph.inputs[number], *graph.nodes[number].output))
        found = [(name, axis) for name in names for axis in sorted(self.axes.get(name, ()))]
        if not found:  # read inside the body of the node
            found = [
                (t, a) for t, axes in self.axes.items() if number in graph.readers.get(t, ()) for a in sorted(axes)
            ]
        return found

    def _ways(self, relation: Relation) -> list[Way]:
        result = []
        for which, choice in enumerate(relation.choices):
            place = (relation.node.name, which)
            concerned = [p for p in dict.fromkeys(p for way in choice for p in way.ports) if p in self.labels]
            if not concerned:
                continue
            if place not in self.decided:
                self.decided[place] = self._decide(place, choice, concerned)
            at = self.decided[place]
            if at is not None:
                result.append(choice[at])
        return result

    def _decide(self, place: Place, choice: list[Way], concerned: list[Port]) -> int | None:
        """Which way is taken: the settled one, else what the script says of those that all labelled ports can go."""
        fitting = [at for at, way in enumerate(choice) if all(port in way.ports for port in concerned)]
        settled = self.analysis.ways.get(place, len(choice))
        if settled < len(choice):
            return settled if settled in fitting else None
        if self.finest:
            fitting.sort(key=lambda at: -choice[at].factor)
        if len(fitting) < 2:
            return fitting[0] if fitting else None
        at = len(self.taken)
        pick = self.script[at] if at < len(self.script) else 0
        self.taken.append(pick)
        self.options.append(len(fitting))
        return fitting[pick]

    def _apply(self, tie: Tie) -> None:
        """Make both sides agree; positions that had no label get the other side's."""
        if tie.a not in self.labels and tie.b not in self.labels:
            return
        for here, at, there, at_there in ((tie.a, tie.at_a, tie.b, tie.at_b), (tie.b, tie.at_b, tie.a, tie.at_a)):
            known = self.labels.get(there)
            if known is None:
                continue
            size = self.analysis.graph.size(here)
            mine = self.labels.get(here)
            mine = np.full(size or 0, -1) if mine is None else mine
            new = (mine[at] < 0) & (known[at_there] >= 0)
            if new.any():
                mine = mine.copy()
                mine[at[new]] = known[at_there[new]]
                self._label(here, mine)
        a, b = self.labels.get(tie.a), self.labels.get(tie.b)
        if a is None or b is None:
            return
        left, right = a[tie.at_a], b[tie.at_b]
        both = (left >= 0) & (right >= 0)
        self._join(left[both], right[both])

    def _join(self, left: np.ndarray, right: np.ndarray) -> None:
        pairs = np.stack([self.root[left], self.root[right]], axis=1)
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        for first, second in np.unique(pairs, axis=0) if len(pairs) else ():
            a, b = self.root[first], self.root[second]
            if a != b:
                self.root[self.root == max(a, b)] = min(a, b)
