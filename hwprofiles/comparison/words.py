"""A comparison in plain words: every sentence says only what the numbers carry."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hwprofiles.comparison.records import Comparison, Pairing, Ranking, Row, Side
from hwprofiles.comparison.verdicts import LARGEST_NEED
from hwprofiles.measurement import Estimate, Quality

MINUS = "\u2212"
_NAMED, _NAMED_ACROSS = 5, 2  # how many of those that are behind are named: on one target, over all

FLAGS: dict[Quality, str] = {
    "ok": "nothing disturbed it",
    "noisy": "the times of single blocks scatter by more than 2.5 %: close other programs, fix the clock, or allow "
    "more seconds",
    "contended": "something else used the machine, and what was timed in quiet was too little: the paired comparison "
    "holds up, the times themselves are too long; wait longer for quiet (the target's option quiet_wait, seconds) or "
    "allow more time (--seconds), and measure again",
    "throttled": "the processor slowed itself down for heat or power: cool it, or let the target's policy pause "
    "between measurements",
    "short": "fewer pairs than a decision needs (20, or 50 in the final phase), or all from one opening: nothing is "
    "said of who wins; allow more time (--seconds)",
}


def summary(comparison: Comparison) -> list[str]:
    """The result, sentence by sentence: who is fastest, cheapest, smallest; what could not be measured; cautions."""
    lines = []
    for ranking in comparison.rankings:
        lines.append(sentence(ranking, comparison))
    return [*lines, *missing(comparison), *cautions(comparison)]


def missing(comparison: Comparison) -> list[str]:
    """What could not be measured, and why; a target that was not there is named once."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for row in comparison.rows:
        if row.problem is not None:
            reasons.setdefault((row.target, row.problem), []).append(row.model)
    everything = len(comparison.models)
    return [
        _ended(
            f"Not measured: {'all models' if len(models) == everything > 1 else _listed(models)} on {target}: {problem}"
        )
        for (target, problem), models in reasons.items()
    ]


def sentence(ranking: Ranking, comparison: Comparison) -> str:
    """What one ranking says: the winner, or who ties, or what is not known; then how far behind the others are."""
    first, contenders = ranking.order[0], ranking.contenders
    where = f"{_where(ranking)}{_among(ranking, comparison)}"
    names = {side: _name(side, ranking) for side in ranking.order}
    if len(contenders) == 1:
        head = f"{names[first]} {_WINS[ranking.metric]}{_value(first, ranking, comparison)}"
    else:
        pairs = [pair for side in contenders[1:] if (pair := _between(ranking, first, side)) is not None]
        undecided = [pair for pair in pairs if pair.verdict == "undecided"]
        everybody = _listed([names[side] for side in contenders])
        if undecided:
            short = [names[side] for side in contenders if is_short(side, comparison)]
            need = _need(undecided, ranking, short if ranking.metric in ("latency", "cost") else [])
            head = f"{everybody} cannot be told apart {_WITHOUT[ranking.metric]}: {need}"
        else:
            value = _value(first, ranking, comparison)
            head = f"{everybody} tie {_TIES[ranking.metric]}{value}: {_differences(pairs)}"
    beaten = [side for side in ranking.order if side not in contenders]
    named = _NAMED if ranking.target is not None or ranking.metric == "size" else _NAMED_ACROSS
    behind = [
        f"{names[side]} {_behind(ranking, pair.ratio)}"
        for side in beaten[:named]
        if (pair := _between(ranking, first, side)) is not None
    ]
    if len(beaten) > named:
        verb = "costs" if ranking.metric == "cost" else "takes"
        behind.append(f"the rest {verb} more" if len(beaten) > named + 1 else f"{names[beaten[-1]]} {verb} more")
    return f"{where}: {'; '.join([head, *behind])}."


def is_short(side: Side, comparison: Comparison) -> bool:
    """Whether too few pairs were timed of it for any decision."""
    record = comparison.row(side.model, side.target).measurement if side.target else None
    return record is not None and "short" in record.quality


def unpriced(comparison: Comparison) -> bool:
    """Whether costs speak of some of the targets only."""
    ranked = {row.target for row in comparison.rows if row.ranked}
    priced = {row.target for row in comparison.rows if row.cost}
    return bool(priced) and priced < ranked


def cautions(comparison: Comparison) -> list[str]:
    """What a reader must know before believing the numbers."""
    lines = []
    for target in comparison.targets:
        rows = [row for row in comparison.rows if row.target == target.name]
        if target.provenance != "hardware":
            lines.append(
                f"{target.name} is {target.provenance}, not hardware: that a model runs there says something, how long "
                "it takes does not, so it takes part in no ranking."
            )
            continue
        for flag in ("noisy", "contended", "throttled", "short"):
            named = [row.model for row in rows if row.measurement is not None and flag in row.measurement.quality]
            if named:
                lines.append(f"{_listed(named)} on {target.name}: {flag}, {FLAGS[flag]}.")
        reference = comparison.reference(target.name)
        if reference is not None and reference != comparison.models[0].name and len(rows) > 1:
            lines.append(
                f"On {target.name} {comparison.models[0].name} did not run; there the others were timed in turns with "
                f"{reference}."
            )
    if len({row.target for row in comparison.rows if row.ranked}) > 1:
        lines.append(
            "Models on one target were timed in turns. Targets cannot be: between two of them only differences above "
            "3 % count, which is what one and the same target may differ by from day to day."
        )
    return lines


def quality_words(row: Row) -> list[str]:
    """The flags of a row, each explained and with what to do. Empty when nothing was wrong."""
    if row.measurement is None:
        return []
    return [f"{flag}: {FLAGS[flag]}" for flag in row.measurement.quality if flag != "ok"]


def number(value: float, digits: int = 3) -> str:
    """`digits` significant digits without an exponent where people do without it."""
    if value == 0:
        return "0"
    if 1e-4 <= abs(value) < 1e12:
        rounded = float(f"{value:.{digits}g}")
        text = f"{rounded:,.{max(0, digits - 1 - math.floor(math.log10(abs(rounded))))}f}"
    else:
        text = f"{value:.{digits - 1}e}"
    return text.replace("-", MINUS)


def signed(fraction: float) -> str:
    """A relative difference with its sign: "+1.3 %"."""
    text = f"{fraction * 100:+.1f}".replace("-", MINUS)
    return f"{'0.0' if text[1:] == '0.0' else text} %"


_WINS = {
    "latency": "is fastest",
    "cost": "is cheapest",
    "energy": "takes the least energy",
    "memory": "takes the least memory",
    "size": "is the smallest file",
}
_TIES = {
    "latency": "in speed",
    "cost": "in cost",
    "energy": "in energy",
    "memory": "in memory",
    "size": "in size",
}
_WITHOUT = {
    "latency": "in speed yet",
    "cost": "in cost yet",
    "energy": "in energy yet",
    "memory": "in memory",
    "size": "in size",
}
_MORE = {"latency": "takes", "cost": "costs", "energy": "takes", "memory": "takes", "size": "is"}
_WHAT = {
    "latency": "more time",
    "cost": "more",
    "energy": "more energy",
    "memory": "more memory",
    "size": "larger",
}
_AS = {
    "latency": "long",
    "cost": "much",
    "energy": "much energy",
    "memory": "much memory",
    "size": "large",
}


def _where(ranking: Ranking) -> str:
    place = ranking.target or {"size": "files", "cost": "cost"}.get(ranking.metric, "all targets")
    return f"{place}, {ranking.shape}" if ranking.shape else place


def _among(ranking: Ranking, comparison: Comparison) -> str:
    return ", among the targets with a price" if ranking.metric == "cost" and unpriced(comparison) else ""


def _name(side: Side, ranking: Ranking) -> str:
    return side.model if ranking.target is not None else str(side)


def _value(side: Side, ranking: Ranking, comparison: Comparison) -> str:
    """Only for costs, whose unit is the user's; the other numbers stand in the table."""
    if ranking.metric != "cost":
        return ""
    cost = comparison.row(side.model, side.target).cost[ranking.shape]
    return f" ({money(cost, comparison.currency)} per million inferences)"


def money(cost: Estimate, currency: str) -> str:
    """With its interval, in the user's currency: "0.0123 EUR, 0.0121 to 0.0125"."""
    unit = f" {currency}" if currency else ""
    interval = f", {number(cost.low)} to {number(cost.high)}" if cost.low < cost.high else ""
    return f"{number(cost.value)}{unit}{interval}"


def about(pairs: int) -> str:
    """How many more pairs, as far as a plan can tell."""
    if pairs >= LARGEST_NEED:
        return f"more than {LARGEST_NEED:,} more pairs"
    return "about 1 more pair" if pairs == 1 else f"about {pairs:,} more pairs"


def _between(ranking: Ranking, a: Side, b: Side) -> Pairing | None:
    return None if a == b else ranking.pairing(a, b)


def _behind(ranking: Ranking, ratio: Estimate) -> str:
    """How much more the other one takes; `ratio` is that of the first to it."""
    value, low, high = 1 / ratio.value, 1 / ratio.high, 1 / ratio.low
    verb = _MORE[ranking.metric]
    if low > 0.5 and high < 2:
        interval = f" ({_percent(low - 1)} to {_percent(high - 1)})" if low < high else ""
        return f"{verb} {_percent(value - 1)} {_WHAT[ranking.metric]}{interval}"
    interval = f" ({number(low)} to {number(high)})" if low < high else ""
    return f"{verb} {number(value)} times as {_AS[ranking.metric]}{interval}"


def _differences(pairs: Sequence[Pairing]) -> str:
    largest = max(pairs, key=lambda pair: abs(math.log(pair.ratio.value)))
    ratio = largest.ratio
    several = "the largest difference is" if len(pairs) > 1 else "the difference is"
    if ratio.low == ratio.high:
        return f"{several} {_percent(abs(ratio.value - 1))}, too little to matter"
    interval = f"{signed(1 / ratio.high - 1)} to {signed(1 / ratio.low - 1)}"
    return f"{several} {_percent(abs(ratio.value - 1))} ({interval}), too little to matter"


def _need(pairs: Sequence[Pairing], ranking: Ranking, short: Sequence[str]) -> str:
    """`short` are those of whom too few pairs were timed for any decision."""
    widest = max(pairs, key=lambda pair: pair.ratio.high / pair.ratio.low)
    interval = f"{signed(1 / widest.ratio.high - 1)} to {signed(1 / widest.ratio.low - 1)}"
    known = [pair.more_pairs for pair in pairs if pair.more_pairs is not None]
    if short:
        whose = "" if len(short) == len(ranking.contenders) else f" of {_listed(short)}"
        more = f"; {about(max(known))} would do" if known else ""
        return f"not enough data, too few pairs{whose} for a decision; so far the difference is {interval}{more}"
    if known:
        return f"the difference is anywhere from {interval}; {about(max(known))} would settle it"
    longer = "a longer reading (energy_seconds)" if ranking.metric == "energy" else "more pairs on each target"
    return f"the difference is anywhere from {interval}; {longer} would narrow it"


def _percent(fraction: float) -> str:
    value = fraction * 100
    return f"{value:.1f} %" if abs(value) < 9.95 else f"{value:.0f} %"


def _ended(text: str) -> str:
    return text if text.endswith((".", "?", "!")) else f"{text}."


def _listed(words: Sequence[str]) -> str:
    if len(words) < 2:
        return "".join(words)
    return f"{', '.join(words[:-1])} and {words[-1]}"
