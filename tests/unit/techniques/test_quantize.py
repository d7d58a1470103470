"""Options of the technique, its names and its uniform recipes."""

from __future__ import annotations

from typing import Any

import pytest

from autotune.errors import UsageError
from autotune.layers import Layer
from autotune.techniques.quantize import ALL_CHOICES, CHOICES, FALLBACKS, Quantize, parse_choice

LAYER = Layer("fc", "MatMul", ("n",), "w", (64, 64), 1, 4096)


class Everything:
    def supports(self, layer: Layer, choice: str) -> bool:
        return True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rounding": "gptk"}, "no rounding 'gptk'; did you mean 'gptq'"),
        ({"bias_correction": "yes"}, "bias_correction is 'yes'; give true or false"),
        ({"choices": "float16"}, r"choices is 'float16'; give a list, such as \['float16'\]"),
        ({"choices": ["nf4-b46-load"]}, "no choice 'nf4-b46-load'; did you mean 'nf4-b64-load'"),
    ],
)
def test_options_that_are_wrong_are_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Quantize(**options)


@pytest.mark.parametrize(
    ("options", "needs"),
    [
        ({}, False),
        ({"rounding": "gptq"}, True),
        ({"bias_correction": True}, True),
        ({"choices": ["nf4-b64-load"]}, False),
        ({"choices": ["int8-dynamic-o1%"]}, True),
    ],
)
def test_asks_for_moments_only_where_something_needs_them(options: dict[str, Any], needs: bool) -> None:
    assert Quantize(**options).needs_moments is needs


def test_offers_more_only_by_name() -> None:
    assert Quantize().choices(LAYER, Everything()) == CHOICES
    asked = ["int8-dynamic-o1%", "nf4-b64-load", "float16"]
    assert sorted(Quantize(asked).choices(LAYER, Everything())) == sorted(asked)


def test_every_choice_has_a_uniform_recipe_and_relatives() -> None:
    assert set(FALLBACKS) == set(ALL_CHOICES)
    assert {relative for relatives in FALLBACKS.values() for relative in relatives} <= set(ALL_CHOICES)
    offered = {"fc": ALL_CHOICES, "table": tuple(c for c in ALL_CHOICES if not c.startswith(("int8", "nf4")))}
    made = dict(Quantize(ALL_CHOICES).uniform(offered))
    assert set(made) == set(ALL_CHOICES)
    assert made["nf4-b64-load"] == {"fc": "nf4-b64-load", "table": "w4-b32-load"}
    assert made["int8-dynamic-o1%"] == {"fc": "int8-dynamic-o1%", "table": "w8-b32"}


def test_weight_only_choices_say_bits_and_block() -> None:
    assert parse_choice("w4-b32-load") == (4, 32) and parse_choice("w8-load") == (8, 0)
    assert parse_choice("nf4-b64-load") == (4, 64) and parse_choice("w2-b128") == (2, 128)
    for choice in ("float16", "int8-static", "int8-dynamic-o1%", "nf4-b64-lod"):
        with pytest.raises(UsageError, match="not a weight-only format"):
            parse_choice(choice)
