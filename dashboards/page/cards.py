"""The headline section: the choice against the original in big numbers."""

from __future__ import annotations

from autotune.trial import Value
from dashboards.info import units
from dashboards.info.headline import Headline
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
        *(tag("p", line, class_="muted") for line in words.explanation(head)),
        _cards(head),
        _obstacles(head, blame),
        _next_step(head, study),
        id="result",
    )


def _cards(head: Headline) -> Html | None:
    if head.trial is None:
        return None
    cards = [_size(head), _speed(head), _drop(head), _memory(head)]
    return tag("div", *cards, class_="cards")


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


def _speed(head: Headline) -> Html | None:
    if head.ratio is None:
        return None
    base = head.original.metrics.get(_key(head, "latency_p50")) if head.original else None
    tone = "good" if head.ratio.high < 1 else "bad" if head.ratio.low > 1 else ""
    times = f"{units.time(base.value)} → {units.time(head.latency.value)}, " if base and head.latency else ""
    return _card(
        "Time per inference",
        units.factor(head.ratio.value),
        "of the original",
        f"{times}interval {units.interval(head.ratio)}",
        tone,
    )


def _drop(head: Headline) -> Html | None:
    if head.drop is None:
        return None
    tone = TONES[head.tone] if head.tone != "bad" else ("bad" if head.drop.value > head.limit else "")
    where = f"{head.judged.worst_slice}, " if head.judged and head.judged.worst_slice else ""
    sub = f"{where}interval {units.interval(head.drop, 100.0, 1)}, limit {units.points(head.limit)}"
    return _card("Loss in the worst slice", units.points(head.drop.value), "points", sub, tone)


def _memory(head: Headline) -> Html | None:
    if head.memory is None:
        return None
    base = head.original.metrics.get(_key(head, "memory_peak")) if head.original else None
    sub = _against(base, head.memory) if base else "model and working memory"
    tone = "good" if base and head.memory.value < base.value * 0.98 else ""
    return _card("Peak memory", units.size(head.memory.value), "", sub, tone)


def _against(base: Value, value: Value) -> str:
    change = value.value / base.value - 1 if base.value else 0.0
    if abs(change) < 0.005:
        return f"as much as the original ({units.size(base.value)})"
    return f"{units.percent(abs(change))} {'less' if change < 0 else 'more'} than {units.size(base.value)}"


def _key(head: Headline, name: str) -> str:
    """The key of the headline's target."""
    if head.original is None:
        return name
    return next((key for key in head.original.metrics if key.startswith(f"{name}@")), name)


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
