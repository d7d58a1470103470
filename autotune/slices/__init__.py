"""Slices: named subsets of the evaluation data, declared in one line of text each.

    "font"                      one slice per value of the metadata column `font`: font=serif, font=mono, ...
    "label"                     one slice per class (a metadata column of that name comes first)
    "font=serif"                one slice; also font!=serif, and font in {serif, mono}
    "length<8"                  samples whose value is below a threshold; also <=, > and >=, and 8 <= length < 20
    "bands(length, 3)"          three slices of about equal size; cuts(length, 8, 20) says where they begin
    "difficulty", "size"        what is computed for every sample: `autotune.slices.automatic`
    "blur(2)"                   copies that a perturbation made: `autotune.perturbations`
    "font=serif & length<8"     combined with & | ! and parentheses
    "font * effect"             all intersections of two columns' values
    "dark()"                    the samples of which the workload's own function says so: `where`

A sample that lacks a column is in none of that column's slices. Values with signs of the language go in quotes.
`docs/slices.md` has the whole of it. A new kind of slice is a class in `expressions` and a line in `parsing`.
"""

from autotune.slices.assignment import FLOOR, Assigned, assign, columns_of, fixed, possible_names
from autotune.slices.columns import ALL, AUTOMATIC, LABEL, Collection, Mask, Population, Tagged, source_of
from autotune.slices.declaration import (
    Declaration,
    Function,
    Kind,
    Slice,
    Slices,
    check_name,
    declared,
    functions_of,
    where,
)
from autotune.slices.expressions import ByThreshold, ByValue, Condition, Holds, MadeBy, Node
from autotune.slices.parsing import parse

__all__ = [
    "ALL",
    "AUTOMATIC",
    "FLOOR",
    "LABEL",
    "Assigned",
    "ByThreshold",
    "ByValue",
    "Collection",
    "Condition",
    "Declaration",
    "Function",
    "Holds",
    "Kind",
    "MadeBy",
    "Mask",
    "Node",
    "Population",
    "Slice",
    "Slices",
    "Tagged",
    "assign",
    "check_name",
    "columns_of",
    "declared",
    "fixed",
    "functions_of",
    "parse",
    "possible_names",
    "source_of",
    "where",
]
