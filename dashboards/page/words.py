"""The headline in plain words. No markup, no colour; every sentence says only what the numbers carry."""

from __future__ import annotations

from autotune.keys import parse_key
from autotune.trial import Value
from dashboards.info import units
from dashboards.info.headline import Gap, Headline


def verdict(head: Headline) -> str:
    """A few words for the label above the headline."""
    if head.tone == "good" and head.verified:
        return "confirmed on unseen data"
    if head.tone == "good":
        return "within every limit on the search data, not confirmed yet"
    if head.tone == "uncertain":
        return "promising, not certain"
    return "no trial keeps every limit" if head.tone == "bad" and head.gaps else "nothing to recommend"


def sentence(head: Headline) -> str:
    """What to take and what it brings, or that there is nothing to take."""
    if head.trial is None:
        tried = f"{head.tried} trials were tried" if head.tried else "no compressed model was tried yet"
        return f"Nothing can be recommended: {tried} and none of them was built, measured and judged."
    name = f"trial {head.trial.number}"
    gains = _gains(head)
    if head.tone == "bad":
        worst = head.gaps[0] if head.gaps else None
        if worst is None:
            return f"Keep the original: nothing within the limits is better. The nearest, {name}, {gains}."
        return f"Nothing is good enough. The nearest, {name}, {gains}, but misses a limit: {gap_words(worst, head)}."
    loss = _loss(head)
    if head.tone == "uncertain":
        return f"{name.capitalize()} looks best: it {gains}. Probably {loss}, but the data are too few to be sure."
    return f"Take {name}: it {gains}, and {loss}."


def explanation(head: Headline) -> list[str]:
    """What a careful reader has to know beside the headline, one sentence each."""
    lines = []
    if head.judged is not None and head.drop is not None:
        seen = "data that the search never saw" if head.verified else "the data that the search optimised on"
        lines.append(
            f"Judged on {head.judged.n:,} samples of {seen}, each answered by the original and by the compressed model."
        )
    if head.tone == "uncertain" and head.drop is not None:
        lines.append(
            f"The loss of the worst slice may be as large as {units.points(head.drop.high)} points; the limit "
            f"is {units.points(head.limit)}."
        )
    if head.tone == "bad" and len(head.gaps) > 1:
        rest = "; ".join(gap_words(gap, head) for gap in head.gaps[1:])
        lines.append(f"It also misses: {rest}.")
    if head.failing and head.tone != "good":
        named = ", ".join(f"{s.name} ({units.points(s.drop.value)})" for s in head.failing[:4])
        lines.append(f"Slices that lose too much, in points: {named}.")
    decidable = [s for s in head.undecided if s.needed]
    if decidable and head.tone != "bad":
        first = decidable[0]
        lines.append(f"Slice {first.name} is undecided; about {first.needed:,} more samples would settle it.")
    if head.tone == "good" and head.verified and head.feasible > 1:
        lines.append(f"{head.feasible} of {head.tried} trials kept every limit; this is the cheapest of them.")
    if head.unmeasured:
        lines.append(f"No trial has a value for these limits, so they were not checked: {', '.join(head.unmeasured)}.")
    return lines


def gap_words(gap: Gap, head: Headline) -> str:
    """One broken limit: "4.2 points lost in slice blur, 1.0 allowed"."""
    key = parse_key(gap.key)
    if key.name == "drop":
        where = head.judged.worst_slice if key.slice == "worst" and head.judged else key.slice or "all"
        return f"{units.points(gap.value)} points lost in slice {where}, {units.points(gap.limit)} allowed"
    return f"{gap.key} is {amount(gap.key, gap.value)}, the limit is {amount(gap.key, gap.limit)}"


def amount(key: str, value: float) -> str:
    """A metric's value with its unit, as the key demands."""
    parsed = parse_key(key)
    if parsed.unit == "bytes":
        return units.size(value)
    if parsed.unit == "s":
        return units.time(value)
    if parsed.unit == "x":
        return units.factor(value)
    if parsed.unit == "J":
        return f"{units.number(value)} J"
    return f"{units.points(value)} points" if parsed.name == "drop" else units.percent(value)


def is_tie(ratio: Value) -> bool:
    """The interval holds one: nobody can say which is faster."""
    return ratio.low <= 1.0 <= ratio.high


def speed(ratio: Value) -> str:
    """Time against the original; faster or slower is said only where the whole interval says so."""
    if is_tie(ratio):
        return "ties with the original in time per inference"
    if ratio.value < 1:
        return f"takes {units.percent(1 - ratio.value)} less time per inference"
    return f"takes {units.percent(ratio.value - 1)} more time per inference"


def doubt(head: Headline) -> str:
    """What stands against the trial of the headline: it does not answer the same on every target, or nobody knows."""
    if head.trial is None or head.parity is None or not head.parity.doubt:
        return ""
    return f"Trial {head.trial.number} {head.parity.doubt}."


def smaller(head: Headline) -> float | None:
    """original size / chosen size."""
    original = head.original.metrics.get("size_bytes") if head.original else None
    return original.value / head.size.value if original and head.size and head.size.value else None


def _gains(head: Headline) -> str:
    times = smaller(head)
    parts = [] if times is None else [f"is {times:.1f} times smaller"]
    known = [(item.target, item.ratio) for item in head.speeds if item.ratio is not None]
    if len(known) == 1:
        parts.append(speed(known[0][1]))
    else:
        parts += [f"{speed(ratio)} on {target}" for target, ratio in known]
    listed = ", ".join(parts[:-1])
    return f"{listed} and {parts[-1]}" if listed else "".join(parts) or "was built and judged"


def _loss(head: Headline) -> str:
    if head.drop is None:
        return "its loss is not known"
    if head.drop.value <= 0:
        return "no slice loses anything"
    return f"no slice loses more than {units.points(max(head.drop.value, 0.0005))} points"
