"""The headline section: the choice against the original in big numbers."""

from __future__ import annotations

from autotune.trial import Value
from dashboards.info import units
from dashboards.info.headline import Headline, Speed
from dashboards.info.sensitivity import Sensitivity
from dashboards.page import words
from dashboards.page.html import Html, join, tag

TONES = {"good": "good", "uncertain": "warn", "bad": "bad", "plain": "plain"}


def headline_section(head: Headline, blame: Sensitivity, study: str) -> Html:
    """Verdict, one sentence, four numbers, and what stands in the way where something does."""
    return tag(
        "section",
        tag("div", words.verdict(head), class_=f"verdict {TONES[head.tone]}"),
        tag("p", words.sentence(head), class_="headline"),
        tag("p", words.doubt(head), class_="notice") if words.doubt(head) else None,
        *(tag("p", line, class_="muted") for line in words.explanation(head)),
        _cards(head),
        _obstacles(head, blame),
        _next_step(head, study),
        id="result",
    )


def _cards(head: Headline) -> Html | None:
    if head.trial is None:
        return None
    several = len(head.speeds) > 1
    speeds = [_speed(speed, several=several) for speed in head.speeds]
    memories = [_memory(speed, several=several) for speed in head.speeds]
    return tag("div", _size(head), *speeds, _drop(head), *memories, class_="cards")


def _card(name: str, big: str, unit: str, sub: str, tone: str = "") -> Html:
    number = tag("div", big, tag("small", f" {unit}") if unit else None, class_=f"big {tone}".strip())
    return tag("div", tag("div", name, class_="name"), number, tag("div", sub, class_="sub"), class_="card")


def _size(head: Headline) -> Html | None:
    if head.size is None:
        return None
    times = words.smaller(head)
    original = head.original.metrics.get("size_bytes") if head.original else None
    change = f"{units.size(original.value)} → {units.size(head.size.value)}" if original else ""
    big = f"{times:.2f}×" if times is not None else units.size(head.size.value)
    tone = "" if times is None else "good" if times > 1 else "bad"
    return _card("Model file", big, "smaller" if times is not None else "", change, tone)


def _speed(speed: Speed, *, several: bool) -> Html | None:
    if speed.ratio is None:
        return None
    tie = words.is_tie(speed.ratio)
    tone = "" if tie else "good" if speed.ratio.high < 1 else "bad"
    before, after = speed.original_latency, speed.latency
    times = f"{units.time(before.value)} → {units.time(after.value)}, " if before and after else ""
    return _card(
        f"Time per inference{f' on {speed.target}' if several else ''}",
        units.factor(speed.ratio.value),
        "of the original, a tie" if tie else "of the original",
        f"{times}interval {units.interval(speed.ratio)}",
        tone,
    )


def _drop(head: Headline) -> Html | None:
    if head.drop is None:
        return None
    tone = TONES[head.tone] if head.tone != "bad" else ("bad" if head.drop.value > head.limit else "")
    where = f"{head.judged.worst_slice}, " if head.judged and head.judged.worst_slice else ""
    sub = f"{where}interval {units.interval(head.drop, 100.0, 1)}, limit {units.points(head.limit)}"
    return _card("Loss in the worst slice", units.points(head.drop.value), "points", sub, tone)


def _memory(speed: Speed, *, several: bool) -> Html | None:
    if speed.memory is None:
        return None
    base = speed.original_memory
    sub = _against(base, speed.memory) if base else "model and working memory"
    tone = "good" if base and speed.memory.value < base.value * 0.98 else ""
    return _card(
        f"Peak memory{f' on {speed.target}' if several else ''}", units.size(speed.memory.value), "", sub, tone
    )


def _against(base: Value, value: Value) -> str:
    change = value.value / base.value - 1 if base.value else 0.0
    if abs(change) < 0.005:
        return f"as much as the original ({units.size(base.value)})"
    return f"{units.percent(abs(change))} {'less' if change < 0 else 'more'} than {units.size(base.value)}"


def _obstacles(head: Headline, blame: Sensitivity) -> Html | None:
    """What stands in the way of more: slices are in the explanation, layers here."""
    if head.trial is None:
        return None
    items = []
    costly = [culprit for culprit in blame.culprits if culprit.loss >= head.limit / 5]
    if costly:
        losses = [
            join((tag("code", c.layer), f" in {c.choice} (about {units.points(c.loss)} points)")) for c in costly[:4]
        ]
        items.append(
            tag(
                "li",
                "Layers that cost accuracy, estimated from ",
                f"{blame.trials} judged trials: ",
                _listed(losses),
                ".",
            )
        )
    elif head.tone == "bad":
        items.append(tag("li", "The trials of this study do not tell which layers cause the loss."))
    large = [kept for kept in head.kept if kept.parameter_share >= 0.02]
    if large:
        names = [join((tag("code", k.layer), f" ({units.percent(k.parameter_share)})")) for k in large[:4]]
        items.append(
            tag(
                "li",
                "Largest layers left as they were, with their share of the parameters: ",
                _listed(names),
                ".",
            )
        )
    if not items:
        return None
    title = "What stands in the way" if head.tone == "bad" else "What stands in the way of an even smaller model"
    return join((tag("h3", title), tag("ul", *items, class_="plain")))


def _listed(items: list[Html]) -> Html:
    return Html(", ".join(items))


def _next_step(head: Headline, study: str) -> Html | None:
    if head.trial is None:
        return None
    number = head.trial.number
    if head.tone == "bad":
        return tag("p", "All about it: ", tag("code", f"autotune show {study} {number}"), class_="muted")
    command = f"autotune export {study} {number} DIR"
    return tag("p", "To ship it: ", tag("code", command), class_="muted")
