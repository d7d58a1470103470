"""Slices combined: what can be written, what it covers, what it is called, and what is refused where."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.errors import DataError, UsageError
from autotune.keys import parse_key
from autotune.slices import Declaration, assign, check_name, declared, fixed, parse
from autotune.workload import Dataset, Sample

FONTS, EFFECTS = ("mono", "sans", "serif"), ("blur", "clean")


def sample(number: int, perturbation: str = "", **metadata: str | float) -> Sample:
    name = f"{number}~{perturbation}" if perturbation else str(number)
    return Sample(name, {"x": np.zeros((1, 1), np.float32)}, number % 3, metadata, perturbation=perturbation)


def data(count: int = 120, name: str = "search") -> Dataset:
    return Dataset(
        name, [sample(i, font=FONTS[i % 3], effect=EFFECTS[i // 3 % 2], length=i % 24) for i in range(count)]
    )


def members(declaration: str | Declaration) -> set[int]:
    """The numbers of the samples in the only slice of a declaration."""
    (_, (name, mask)) = assign(data(), [declaration]).items()
    assert parse_key(f"drop/{name}@rpi5").slice == name
    return set(np.flatnonzero(mask).tolist())


def where(*, font: str | None = None, effect: str | None = None, low: int = 0, high: int = 23) -> set[int]:
    rows = range(120)
    return {
        i for i in rows
        if font in (None, FONTS[i % 3]) and effect in (None, EFFECTS[i // 3 % 2]) and low <= i % 24 <= high
    }  # fmt: skip


@pytest.mark.parametrize(
    ("declaration", "expected"),
    [
        ("font=mono & effect=blur", where(font="mono", effect="blur")),
        ("font=mono&effect=blur&length<8", where(font="mono", effect="blur", high=7)),
        ("font=mono | font=sans", where(font="mono") | where(font="sans")),
        ("font = mono | effect = blur & length >= 20", where(font="mono") | where(effect="blur", low=20)),
        ("(font=mono | effect=blur) & length>=20", (where(font="mono") | where(effect="blur")) & where(low=20)),
        ("!font=mono", where(font="sans") | where(font="serif")),
        ("!(font=mono | font=sans)", where(font="serif")),
        ("!!font=mono", where(font="mono")),
        ("font!=mono", where(font="sans") | where(font="serif")),
        ("font in {mono, 'sans'}", where(font="mono") | where(font="sans")),
        ("font in{mono,sans} & effect=blur", where(effect="blur") & (where(font="mono") | where(font="sans"))),
        ("8 <= length < 20", where(low=8, high=19)),
        ("8 < length <= 20", where(low=9, high=20)),
        ("20 <= length", where(low=20)),
        ("label=2", {i for i in range(120) if i % 3 == 2}),
        ("label=2 & length<3", {i for i in range(120) if i % 3 == 2 and i % 24 < 3}),
        ('"font"="mono"', where(font="mono")),
    ],
)
def test_what_a_declaration_covers(declaration: str, expected: set[int]) -> None:
    assert members(declaration) == expected
    assert members(parse(declaration).text) == expected


def test_objects_compose_to_the_same_texts() -> None:
    night = Declaration("length >= 20 | length < 6").named("night")
    assert members(night & "font=mono") == (where(low=20) | where(high=5)) & where(font="mono")
    assert members(~night) == where(low=6, high=19)
    assert members(Declaration("font=mono") | night) == where(font="mono") | where(low=20) | where(high=5)
    assert list(assign(data(), [night])) == ["all", "night"]
    assert len(assign(data(), [Declaration("font") * "effect"], floor=5)) == 7


def test_a_sample_without_the_column_is_in_its_complement_only_by_the_sign() -> None:
    rows = Dataset("search", [sample(0, font="a"), sample(1, font="b"), sample(2)])
    assert assign(rows, ["font!=a"])["font!=a"].tolist() == [False, True, False]
    assert assign(rows, ["!font=a"])["!font=a"].tolist() == [False, True, True]


@pytest.mark.parametrize(
    ("declaration", "message"),
    [
        ("a & & b", "slice 'a & & b': expected a column at character 5"),
        ("a=1 &", "slice 'a=1 &': expected a column at character 6"),
        ("(a=1", "expected ')' at character 5; the parenthesis at character 1 is still open"),
        ("a=1)", "did not expect ')' at character 4; put quotes around values with special characters"),
        ("a in {b", "expected '}' at character 8"),
        ("a in {}", "expected a value before '}' at character 7"),
        ("a = ", "expected a value after '=' at character 5"),
        ("4 < a > 3", "expected '<' or '<=' instead of '>' at character 7; write 8 <= length < 20"),
        ("4 < a < b", "expected a number at character 9"),
        ("a < b", "'b' is not a number at character 4"),
        ("a * b * c", "multiplies more than two columns; intersections go to depth 2"),
        ("a * a", "multiplies the column 'a' by itself"),
        ("a & b", "a and b each stand for several slices; write a * b for all intersections"),
        ("!a", "'!' is for single slices, and a stands for several"),
        ("a | b=1", "'|' is for single slices, and a stands for several"),
        ("blur(1) & noise(2)", "no sample is made by both blur(1) and noise(2)"),
        ("blur(1) | a=1", "joins perturbed samples and samples as they were given; declare two slices"),
        ("!blur(1)", "'!' of a perturbation is no slice"),
        ("blur(1, 2)", "the perturbation 'blur' has one strength; write e.g. blur(2)"),
        ("font size (mm)", "'font size' is no name of a perturbation at character 1"),
        ("bands(a)", "bands need a column and a count of 2 to 20; write e.g. bands(length, 3)"),
        ("cuts(a, 3, 2)", "cuts need a column and rising edges"),
        ("''", "nothing is in the quotes"),
        ("  ", "is empty; declare a column (font)"),
        ("(" * 60 + "a=1" + ")" * 60, "is nested deeper than 50"),
        ("a=" + "1" * 2000, "is longer than 2000 characters"),
    ],
)
def test_what_cannot_be_read_says_where(declaration: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(declaration)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


WORDS = st.text(st.characters(exclude_categories=["C", "Z"]), min_size=1, max_size=8)
NUMBERS = st.floats(-1e6, 1e6, width=32).map(float)


def leaves() -> st.SearchStrategy[str]:
    quoted = WORDS.map(lambda word: '"' + word.replace("\\", "\\\\").replace('"', '\\"') + '"')
    return st.one_of(
        st.builds("{}={}".format, quoted, quoted),
        st.builds("{}!={}".format, quoted, quoted),
        st.builds("{} in {{{}, {}}}".format, quoted, quoted, quoted),
        st.builds("{}<{!r}".format, quoted, NUMBERS),
        st.builds("{!r}<={}<{!r}".format, NUMBERS, quoted, NUMBERS),
    )


@given(
    st.recursive(
        leaves(),
        lambda inner: st.one_of(
            st.builds("({}) & ({})".format, inner, inner),
            st.builds("({}) | ({})".format, inner, inner),
            inner.map("!({})".format),
        ),
        max_leaves=6,
    )
)
def test_the_text_of_what_was_read_reads_the_same(declaration: str) -> None:
    node = parse(declaration)
    assert parse(node.text).text == node.text
    assert parse(node.text).columns() == node.columns()


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused(text: str) -> None:
    try:
        parse(text)
    except UsageError as error:
        assert str(error).startswith("slice ")


@given(WORDS.filter(lambda word: not set(word) & set("&|*\"'<>=!(){},")), WORDS.filter(lambda w: w[0] not in "\"'="))
def test_a_value_without_operators_is_what_it_always_was(column: str, value: str) -> None:
    value = "".join(sign for sign in value if sign not in "&|*()") or "x"
    rows = Dataset("search", [sample(0, **{column: value}), sample(1, **{column: value + "?"})])
    declaration = f"{column}={value}"
    if "@" in declaration:
        return
    assert assign(rows, [declaration])[declaration].tolist() == [True, False]


def test_values_with_signs_go_in_quotes_and_columns_name_them_as_they_are() -> None:
    rows = Dataset("search", [sample(i, kind=("R&D", "a|b", "x (1)")[i % 3]) for i in range(9)])
    assert list(assign(rows, ["kind"])) == ["all", "kind=R&D", "kind=a|b", "kind=x (1)"]
    assert assign(rows, ["kind='R&D'"])["kind=R&D"].sum() == 3
    assert assign(rows, ["kind=x (1)"])["kind=x (1)"].sum() == 3
    assert list(assign(rows, ["kind='R&D' | kind='a|b'"]))[1] == 'kind="R&D" | kind="a|b"'


# --- families ---


def test_all_intersections_of_two_columns() -> None:
    found = assign(data(), ["font * effect"], floor=20)
    assert list(found)[1:3] == ["font=mono & effect=blur", "font=mono & effect=clean"]
    assert len(found) == 7
    assert set(found.kinds.values()) == {"declared", "intersection"}
    assert found["font=serif & effect=clean"].sum() == 20


def test_small_intersections_are_left_out_with_a_note() -> None:
    found = assign(data(62), ["font * effect"], floor=11)
    assert list(found) == ["all", "font=mono & effect=blur", "font=sans & effect=blur"]
    assert found.notes == [
        "4 intersections of font * effect have fewer than 11 samples and are left out, e.g. font=mono & effect=clean"
    ]
    with pytest.raises(DataError, match=r"font \* effect of search: none of the 6 intersections has 30 samples"):
        assign(data(62), ["font * effect"])


def test_other_data_have_the_intersections_of_the_first() -> None:
    first = assign(data(62), ["font * effect"], floor=11)
    second = assign(data(12, "heldout"), ["font * effect"], expected=first, floor=11)
    assert list(second) == list(first)
    with pytest.raises(DataError, match="every slice needs samples in both data sets"):
        assign(data(1, "heldout"), ["font * effect"], expected=first)


def test_a_family_is_narrowed_by_a_single_slice() -> None:
    found = assign(data(), ["font & length<8"])
    assert list(found)[1:] == ["font=mono & length<8", "font=sans & length<8", "font=serif & length<8"]
    assert list(assign(data(), ["font * (length<8)"], floor=1))[1:] == list(found)[1:]


def test_bands_hold_about_as_many_samples_each() -> None:
    found = assign(data(), ["bands(length, 3)"])
    assert list(found) == ["all", "length<8", "8<=length<16", "length>=16"]
    assert [int(mask.sum()) for mask in found.values()] == [120, 40, 40, 40]
    assert len(assign(data(), ["bands(length, 3) * font"], floor=10)) == 10


def test_fixed_bands_cut_other_data_at_the_same_edges() -> None:
    (cut, product, plain) = fixed(data(), ["bands(length, 3)", "font * bands(length, 2)", "font=mono"])
    assert cut.text == "cuts(length, 8, 16)"
    assert product.text == "font * cuts(length, 12)"
    assert plain.text == "font=mono"
    found = assign(data(10, "heldout"), ["bands(length, 3)"])
    assert "length<3" in found  # its own thirds
    other = assign(data(17, "heldout"), [cut])
    assert [int(mask.sum()) for mask in other.values()] == [17, 8, 8, 1]


def test_edges_have_the_digits_that_they_need() -> None:
    rows = Dataset("search", [sample(i, ink=i / 7) for i in range(90)])
    assert list(assign(rows, ["bands(ink, 3)"])) == ["all", "ink<4.2", "4.2<=ink<8.5", "ink>=8.5"]
    with pytest.raises(DataError, match="the values of 'ink' hardly differ, there are no bands"):
        assign(Dataset("search", [sample(i, ink=1) for i in range(9)]), ["bands(ink, 3)"])


def test_a_name_comes_before_the_members_of_a_family() -> None:
    found = assign(data(), [Declaration("font", "typeface"), Declaration("length<8", "short")])
    assert list(found) == ["all", "typeface: font=mono", "typeface: font=sans", "typeface: font=serif", "short"]
    assert [each.text for each in found.declarations.values()][-1] == "length<8"


# --- refusals and notes about what is covered ---


def test_a_slice_of_everything_is_refused_and_a_column_of_one_value_noted() -> None:
    with pytest.raises(DataError, match="slice length<99 covers all 120 samples of the search data: it is the same"):
        assign(data(), ["length<99"])
    with pytest.raises(DataError, match=r"slice quick covers all 120 samples"):
        assign(data(), [Declaration("font=mono | !font=mono", "quick")])
    rows = Dataset("search", [sample(i, font="mono") for i in range(3)])
    assert assign(rows, ["font"]).notes == [
        "slice font=mono covers all 3 samples of the search data: it is the same as 'all'"
    ]


def test_a_combination_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="slice font=mono & font=sans covers none of the 120 samples"):
        assign(data(), ["font=mono & font=sans"])
    with pytest.raises(DataError, match=r"font=mon covers none .*; did you mean 'font=mono'"):
        assign(data(), ["font=mon | font=sans"])


def test_the_same_samples_under_two_names_are_noted() -> None:
    found = assign(data(), ["length<8", Declaration("length<=7", "short")])
    assert found.notes == ["slices length<8 and short are the same samples"]


def test_two_slices_of_one_name_are_refused() -> None:
    with pytest.raises(DataError, match="two slices of the search data are called 'short'; give one another name"):
        assign(data(), [Declaration("length<8", "short"), Declaration("length<4", "short")])
    assert len(assign(data(), ["font", "font=mono"])) == 4


@pytest.mark.parametrize("name", ["", " ", "a@b", "all", "worst", "a\nb", " a"])
def test_names_that_metric_keys_cannot_hold(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be used in metric keys"):
        check_name(name)
    with pytest.raises(UsageError):
        declared([], {name: "font"})


def test_what_is_declared_where() -> None:
    assert declared(["font", Declaration("a=1", "b")], {"c": "d=1"}) == (
        Declaration("font"), Declaration("a=1", "b"), Declaration("d=1", "c"),
    )  # fmt: skip
    with pytest.raises(UsageError, match=r"one text; give a list of declarations, e.g. \['font'\]"):
        declared("font")
    with pytest.raises(UsageError, match="neither a text nor a Declaration"):
        declared([3])  # type: ignore[list-item]


# --- computed columns and perturbed copies ---


def test_computed_columns() -> None:
    words = ["hard" if i < 40 else None for i in range(120)]
    found = assign(data(), ["difficulty", "difficulty=hard & font=mono"], columns={"difficulty": words})
    assert found.kinds["difficulty=hard"] == "automatic"
    assert found.kinds["difficulty=hard & font=mono"] == "intersection"
    assert int(found["difficulty=hard"].sum()) == 40
    with pytest.raises(DataError, match="no sample of the search data has the column 'dificulty'; did you mean"):
        assign(data(), ["dificulty"], columns={"difficulty": words})
    with pytest.raises(DataError, match="the computed column 'difficulty' has 3 values for the 120 samples"):
        assign(data(), ["difficulty"], columns={"difficulty": ["a", "b", "c"]})


def test_metadata_come_before_what_is_computed() -> None:
    found = assign(data(), ["font=mono"], columns={"font": ["mono"] * 120})
    assert int(found["font=mono"].sum()) == 40
    assert found.kinds["font=mono"] == "declared"


def test_perturbed_copies_are_in_no_other_slice() -> None:
    made = [sample(i, "blur(2)", font=FONTS[i % 3], length=i) for i in range(30)]
    rows = Dataset("search", [*data().samples, *made])
    found = assign(
        rows,
        ["font", "blur(2)", "blur(2) & font=mono", "blur(2) & difficulty=hard"],
        columns={"difficulty": ["hard" if i < 10 else "easy" for i in range(120)]},  # copies share it
    )
    assert int(found["all"].sum()) == 120 and not found["all"][120:].any()
    assert int(found["font=mono"].sum()) == 40
    assert np.flatnonzero(found["blur(2)"]).tolist() == list(range(120, 150))
    assert int(found["blur(2) & font=mono"].sum()) == 10
    assert int(found["blur(2) & difficulty=hard"].sum()) == 10
    assert [found.kinds[name] for name in found] == ["declared"] * 4 + ["perturbed"] * 3
    with pytest.raises(DataError, match=r"no sample was made by noise\(1\), only by blur\(2\)"):
        assign(rows, ["noise(1)"])
    with pytest.raises(DataError, match="hold perturbed samples only"):
        assign(Dataset("search", made), [])


def test_who_asks_for_a_slice_by_name_is_known_whatever_the_order() -> None:
    for declarations in (["font", "font=mono"], ["font=mono", "font"]):
        origins = assign(data(), declarations).origins
        assert {name: origin.text for name, origin in origins.items()} == {
            "font=mono": "font=mono", "font=sans": "font", "font=serif": "font"
        }  # fmt: skip
