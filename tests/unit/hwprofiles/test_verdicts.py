"""Who may be called better than whom, on made-up measurements."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hwprofiles.comparison import Comparison, Side, summary
from hwprofiles.comparison.verdicts import PAIRED, judge
from tests.unit.made_up import compared, failed, latency, measured, row


def two(seconds: float, *, half: float = 0.005, pairs: int = 20) -> Comparison:
    return compared([
        row(measured("a", "t", 0.010, half=half), "a"),
        row(measured("b", "t", seconds, 0.010, half=half, pairs=pairs), "b"),
    ])  # fmt: skip


def test_a_clear_difference_has_a_winner() -> None:
    ranking = two(0.012).ranking("latency", "t")
    assert ranking is not None and ranking.winner == Side(model="a", target="t")
    (pair,) = ranking.pairings
    assert pair.paired and pair.verdict == "less" and pair.ratio.high < 1
    assert math.isclose(pair.ratio.value, 10 / 12)


@pytest.mark.parametrize(
    ("seconds", "half"),
    [
        (0.01003, 0.006),  # the interval includes 1 and lies within 1 %
        (0.01006, 0.002),  # it excludes 1, but the difference is too small to matter
    ],
)
def test_a_tie_is_called_a_tie(seconds: float, half: float) -> None:
    comparison = two(seconds, half=half)
    ranking = comparison.ranking("latency", "t")
    assert ranking is not None and ranking.winner is None and len(ranking.contenders) == 2
    assert ranking.pairings[0].verdict == "tie"
    assert "a and b tie in speed" in " ".join(summary(comparison))


@pytest.mark.parametrize(
    ("seconds", "half"),
    [
        (0.01003, 0.008),  # the interval contains 1 and reaches beyond 1 %
        (0.01006, 0.005),  # it excludes 1 and reaches beyond 1 %: faster, but nobody knows whether that matters
        (0.00997, 0.008),
    ],
)
def test_a_tie_lies_wholly_within_what_does_not_matter(seconds: float, half: float) -> None:
    comparison = two(seconds, half=half)
    ranking = comparison.ranking("latency", "t")
    assert ranking is not None and ranking.winner is None
    (pair,) = ranking.pairings
    assert pair.verdict == "undecided" and pair.more_pairs is not None and pair.more_pairs > 0
    told = summary(comparison)[0]
    assert "cannot be told apart in speed yet" in told and f"about {pair.more_pairs} more pairs would settle it" in told
    # As many more, and the interval lies within 1 % on both sides.
    value = math.log(pair.ratio.value)
    shrunk = half * math.sqrt(20 / (20 + pair.more_pairs)) * 0.999
    assert judge((value, value - shrunk, value + shrunk), PAIRED, 20 + pair.more_pairs)[0] == "tie"


def test_on_the_edge_of_what_matters_no_number_of_pairs_is_promised() -> None:
    edge = PAIRED * (1 - 1e-9)
    assert judge((edge, edge - 0.02, edge + 0.02), PAIRED, 20) == ("undecided", 100_000)
    assert judge((edge, edge - 0.02, edge + 0.02), PAIRED, None) == ("undecided", None)


def test_too_few_pairs_win_nothing() -> None:
    """Twice as fast by six pairs: that is no decision."""
    comparison = compared([
        row(measured("a", "t", 0.010), "a", 1.0),
        row(measured("b", "t", 0.005, 0.010, pairs=6, quality=("short",)), "b", 1.0),
        row(measured("c", "t", 0.012, 0.010), "c", 1.0),
    ], prices={"t": 1.0})  # fmt: skip
    for metric in ("latency", "cost"):
        ranking = comparison.ranking(metric, "t" if metric == "latency" else None)  # type: ignore[arg-type]
        assert ranking is not None and ranking.winner is None and ranking.order[0].model == "b"
        assert {pair.more_pairs for pair in ranking.pairings if pair.verdict == "undecided"} == {14}
    assert "not enough data, too few pairs of b for a decision" in summary(comparison)[0]
    # The two that have enough are told apart.
    ranking = comparison.ranking("latency", "t")
    assert ranking is not None
    assert ranking.pairing(Side(model="a", target="t"), Side(model="c", target="t")).verdict == "less"


def test_a_wide_interval_asks_for_more_pairs() -> None:
    comparison = two(0.0104, half=0.06)
    ranking = comparison.ranking("latency", "t")
    assert ranking is not None and ranking.winner is None
    (pair,) = ranking.pairings
    # Half widths fall with the root of the pairs: 0.06 must become the observed 4 %.
    assert pair.verdict == "undecided" and pair.more_pairs == math.ceil(20 * ((0.06 / math.log(1.04)) ** 2 - 1))
    assert (
        "cannot be told apart" in summary(comparison)[0] and f"{pair.more_pairs} more pairs" in summary(comparison)[0]
    )


def test_as_many_more_pairs_as_it_says_settle_it() -> None:
    value, half, pairs = math.log(1.02), 0.05, 20
    verdict, more = judge((value, value - half, value + half), PAIRED, pairs)
    assert verdict == "undecided" and more is not None
    shrunk = half * math.sqrt(pairs / (pairs + more))
    assert judge((value, value - shrunk * 0.999, value + shrunk * 0.999), PAIRED, pairs + more)[0] == "more"


def test_two_models_are_compared_by_what_both_were_paired_with() -> None:
    """b and c were measured an hour apart, while the machine had become 30 % slower. The pairs do not care."""
    comparison = compared([
        row(measured("a", "t", 0.010), "a"),
        row(measured("b", "t", 0.012, 0.010), "b"),
        row(measured("c", "t", 0.01105 * 1.3, 0.013), "c"),  # 1.105 of the first
    ])  # fmt: skip
    ranking = comparison.ranking("latency", "t")
    assert ranking is not None
    assert [side.model for side in ranking.order] == ["a", "c", "b"]
    pair = ranking.pairing(Side(model="c", target="t"), Side(model="b", target="t"))
    assert pair.verdict == "less" and math.isclose(pair.ratio.value, 1.105 / 1.2)
    # Two intervals of the same width make one that is the root of two wider; three sides widen it from the 97.5 % point
    # of t with 4 degrees (5 openings) to its 98.75 % point.
    half = math.log(pair.ratio.high / pair.ratio.low) / 2
    assert math.isclose(half, 0.005 * math.sqrt(2) * 3.4954 / 2.7764, rel_tol=1e-3)


def test_equal_models_seldom_get_a_winner() -> None:
    """Five equal models with honest intervals of 95 %: a false winner may appear in 5 % of comparisons."""
    random = np.random.default_rng(1)
    false = 0
    for _ in range(300):
        rows = [row(measured("m0", "t", 0.01, half=0.05), "m0")]
        for number in range(1, 5):
            off = math.exp(random.normal(scale=0.05 / 1.96))
            rows.append(row(measured(f"m{number}", "t", 0.01 * off, 0.01, half=0.05), f"m{number}"))
        ranking = compared(rows).ranking("latency", "t")
        assert ranking is not None
        false += ranking.winner is not None
    assert false <= 300 * 0.08


def test_between_targets_small_differences_do_not_count() -> None:
    def across(seconds: float) -> Comparison:
        return compared([row(measured("a", "t", 0.010), "a"), row(measured("a", "u", seconds), "a")])

    near, far = across(0.0102).ranking("latency"), across(0.0110).ranking("latency")
    assert near is not None and far is not None
    assert near.pairings[0].verdict == "tie" and not near.pairings[0].paired  # 2 %: clear of 1, but not of other days
    assert far.winner == Side(model="a", target="t") and far.pairings[0].more_pairs is None


def test_emulated_times_take_part_in_no_ranking() -> None:
    comparison = compared(
        [
            row(measured("a", "t", 0.010), "a", 0.1),
            row(measured("b", "t", 0.011, 0.010), "b", 0.1),
            row(measured("a", "fake", 0.001, provenance="emulated", joules=1.0), "a", 0.1),
            row(measured("b", "fake", 0.0001, 0.001, provenance="emulated", joules=0.1), "b", 0.1),
        ],
        prices={"t": 0.1, "fake": 0.1},
    )
    assert all(side.target in ("t", "") for ranking in comparison.rankings for side in ranking.order)
    assert comparison.ranking("latency", "fake") is None and comparison.ranking("latency") is None
    assert any("fake is emulated, not hardware" in line for line in summary(comparison))


def test_cost_is_price_times_median() -> None:
    comparison = compared(
        [
            row(measured("a", "cheap", 0.010), "a", 0.02),
            row(measured("b", "cheap", 0.008, 0.010), "b", 0.02),
            row(measured("a", "fast", 0.001), "a", 0.36),
            row(measured("b", "fast", 0.001001, 0.001), "b", 0.36),
        ],
        prices={"cheap": 0.02, "fast": 0.36},
    )
    cost = comparison.row("a", "fast").cost[""]
    assert math.isclose(cost.value, 0.36 / 3600 * 0.001 * 1e6)  # 0.1 for a million of a millisecond each
    assert cost.low < cost.value < cost.high
    ranking = comparison.ranking("cost")
    assert ranking is not None and ranking.winner == Side(model="b", target="cheap")
    pair = ranking.pairing(Side(model="a", target="fast"), Side(model="b", target="fast"))
    assert pair.paired and pair.verdict == "tie"
    far = ranking.pairing(Side(model="b", target="cheap"), Side(model="a", target="fast"))
    assert not far.paired and math.isclose(far.ratio.value, (0.02 * 8) / (0.36 * 1))
    assert "b on cheap is cheapest (0.0444 EUR" in " ".join(summary(comparison))


def test_a_batch_makes_an_inference_cheaper() -> None:
    from hwprofiles.comparison.verdicts import cost_of

    one, eight = cost_of(latency(0.010), 1.0), cost_of(latency(0.010, batch=8), 1.0, batch=8)
    for end in ("value", "low", "high"):
        assert math.isclose(getattr(one, end), 8 * getattr(eight, end))


def test_cost_follows_the_median_and_its_interval() -> None:
    """A busy machine: the median is 10 ms, but a mean inference took 20."""
    from hwprofiles.comparison.verdicts import cost_of

    busy = latency(0.010, 0.02).model_copy(update={"throughput": 50.0})
    cost = cost_of(busy, 3.6)
    assert math.isclose(cost.value, 10.0)
    assert math.isclose(cost.low / cost.value, busy.median.low / busy.median.value)
    assert math.isclose(cost.high / cost.value, busy.median.high / busy.median.value)


def test_costs_speak_only_of_targets_with_a_price() -> None:
    rows = [
        row(measured("a", "priced", 0.010), "a", 1.0),
        row(measured("b", "priced", 0.020, 0.010), "b", 1.0),
        row(measured("a", "free", 0.010), "a"),
    ]
    text = " ".join(summary(compared(rows, prices={"priced": 1.0})))
    assert "cost, among the targets with a price: a on priced is cheapest" in text
    assert "among the targets" not in " ".join(summary(compared(rows[:2], prices={"priced": 1.0})))


@pytest.mark.parametrize(
    ("value", "text"),
    [(169_432.0, "169,000"), (1_318_476.0, "1,320,000"), (0.4567, "0.457"), (9.996, "10.0"), (12.0, "12.0"),
     (0.00002, "2.00e\u221205"), (-1.5, "\u22121.50"), (0.0, "0")],
)  # fmt: skip
def test_numbers_have_three_digits(value: float, text: str) -> None:
    from hwprofiles.comparison.words import number

    assert number(value) == text


def test_memory_and_energy_ties() -> None:
    comparison = compared([
        row(measured("a", "t", 0.01, peak=100_000_000, joules=0.050), "a"),
        row(measured("b", "t", 0.02, 0.01, peak=101_000_000, joules=0.080), "b"),
        row(measured("c", "t", 0.03, 0.01, peak=60_000_000), "c"),
    ])  # fmt: skip
    memory, energy = comparison.ranking("memory", "t"), comparison.ranking("energy", "t")
    assert memory is not None and memory.winner == Side(model="c", target="t")
    assert memory.pairing(Side(model="a", target="t"), Side(model="b", target="t")).verdict == "tie"
    assert energy is not None and [side.model for side in energy.order] == ["a", "b"]  # c has no energy


@pytest.mark.parametrize(
    ("other", "verdict"),
    [
        (11_900_000, "tie"),  # 19 %, but less than 2 MB
        (12_100_000, "less"),
    ],
)
def test_memory_differs_by_a_share_and_by_an_amount(other: int, verdict: str) -> None:
    comparison = compared([
        row(measured("a", "t", 0.01, peak=10_000_000), "a"),
        row(measured("b", "t", 0.02, 0.01, peak=other), "b"),
        row(measured("large", "u", 0.01, peak=1_000_000_000), "large"),
        row(measured("larger", "u", 0.02, 0.01, peak=1_010_000_000), "larger"),
    ])  # fmt: skip
    small, large = comparison.ranking("memory", "t"), comparison.ranking("memory", "u")
    assert small is not None and small.pairings[0].verdict == verdict and not small.pairings[0].interval
    assert large is not None and large.pairings[0].verdict == "tie"  # 10 MB, but 1 %


def test_tiny_models_tie_in_memory() -> None:
    comparison = compared([
        row(measured("a", "t", 0.01, peak=0), "a"),
        row(measured("b", "t", 0.02, 0.01, peak=300_000), "b"),
    ])  # fmt: skip
    memory = comparison.ranking("memory", "t")
    assert memory is not None and memory.pairings[0].verdict == "tie"


def test_energy_that_does_not_stand_out_from_rest_is_not_ranked() -> None:
    from hwprofiles.measurement import Energy, Estimate

    faint = Energy(joules=Estimate(value=0.001, low=-0.002, high=0.004), idle_watts=3.0, source="rapl:package-0")
    record = measured("a", "t", 0.01).model_copy(update={"energy": faint})
    comparison = compared([row(record, "a"), row(measured("b", "t", 0.02, 0.01, joules=0.1), "b")])
    assert comparison.ranking("energy", "t") is None


def test_per_shape_the_winner_may_differ() -> None:
    rows = [
        row(measured("a", "t", 0.01, shapes={"short": 1.0, "long": 2.0}), "a", 1.0),
        row(measured("b", "t", 0.02, 0.01, shapes={"short": 1.0, "long": 2.0}), "b", 1.0),
    ]
    comparison = compared(rows, prices={"t": 1.0})
    assert comparison.shapes == ("short", "long")
    assert {r.shape for r in comparison.rankings if r.metric == "latency"} == {"short", "long"}
    cost = comparison.row("a", "t").cost
    assert math.isclose(cost["long"].value, 2 * cost["short"].value)


def test_what_was_not_measured_is_named() -> None:
    rows = [row(measured("a", "t", 0.01), "a"), row(failed("b", "t", "b: no kernel for Foo"), "b")]
    comparison = compared(rows)
    assert comparison.ranking("latency", "t") is None and comparison.reference("t") == "a"
    assert "Not measured: b on t: b: no kernel for Foo." in summary(comparison)


def test_flags_become_cautions_with_what_to_do() -> None:
    rows = [
        row(measured("a", "t", 0.01, quality=("contended", "noisy")), "a"),
        row(measured("b", "t", 0.02, 0.01, quality=("contended",)), "b"),
    ]
    text = " ".join(summary(compared(rows)))
    assert (
        "a and b on t: contended" in text and "a on t: noisy" in text and "quiet_wait" in text and "--seconds" in text
    )


def test_a_comparison_survives_json() -> None:
    comparison = two(0.012)
    assert Comparison.model_validate_json(comparison.model_dump_json()) == comparison
