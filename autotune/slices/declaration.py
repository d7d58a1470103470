"""A declared slice as an object: the same text as in a study file, put together with Python's operators.

night = Declaration("hour >= 20 | hour < 6").named("night")
small_at_night = night & "size=small"
blurred_serif = Declaration("blur(2)") & Declaration("font=serif")
dark = where(lambda sample: sample.inputs["x"].mean() < 0.2, "dark")  # text: dark()
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from autotune.errors import UsageError
from autotune.slices.expressions import quoted

Kind = Literal["declared", "automatic", "perturbed", "intersection", "discovered"]
Function = Callable[[Any], bool]  # a sample -> whether it is in the slice
RESERVED = ("all", "worst")


@dataclass(frozen=True)
class Declaration:
    """`text` as `autotune.slices` reads it; `name` is what metric keys call it, its text where it has none.

    `kind` says where it comes from; None: read off its text. `functions` are those that the text may call, by name.
    """

    text: str
    name: str | None = None
    kind: Kind | None = None
    functions: Mapping[str, Function] = field(default_factory=dict, compare=False, repr=False)

    def named(self, name: str) -> Declaration:
        """The same under a name. Raises `UsageError` for one that metric keys cannot hold."""
        check_name(name)
        return replace(self, name=name)

    def __and__(self, other: Slice) -> Declaration:
        return _joined(self, "&", other)

    def __or__(self, other: Slice) -> Declaration:
        return _joined(self, "|", other)

    def __mul__(self, other: Slice) -> Declaration:
        return _joined(self, "*", other)

    def __invert__(self) -> Declaration:
        return Declaration(f"!{_operand(self)}", functions=self.functions)

    def __str__(self) -> str:
        return self.text


Slice = str | Declaration | Function  # what a workload may declare a slice as
Slices = Iterable[Slice] | Mapping[str, Slice]


def where(function: Function, name: str | None = None) -> Declaration:
    """The samples of which `function(sample)` is True: a slice that no column tells, under the function's own name.

    A perturbed copy is in where the sample is that it was made from. Raises `UsageError` for what cannot be called, and
    without a name for a lambda, which has none.
    """
    if not callable(function):
        raise UsageError(f"slice {function!r:.60} is no function of a sample; give one that returns True or False")
    called = getattr(function, "__name__", "") if name is None else name
    if name is None and not called.isidentifier():
        raise UsageError(f"slice {function!r:.60} has no name; write where(function, 'name') or {{'name': function}}")
    check_name(called)
    return Declaration(f"{quoted(called)}()", called, functions={called: function})


def declared(
    given: Slices, table: Mapping[str, str] | None = None, *, functions: Mapping[str, Function] | None = None
) -> tuple[Declaration, ...]:
    """The declarations of a workload, by name where it is a mapping, and those of a study file's `[slices]`, in this
    order. A lambda in a list is called by its place: "function 2".

    Each may call the functions of all others, and those of `functions`. Raises `UsageError` for a name that metric keys
    cannot hold, for what is no declaration, and for two functions of one name.
    """
    if isinstance(given, str):
        raise UsageError(f"slices are {given!r}, one text; give a list of declarations, e.g. [{given!r}]")
    if not isinstance(given, Iterable):
        raise UsageError(
            f"slices are {given!r:.60}; give a list of declarations, or a dictionary of name -> declaration"
        )
    if isinstance(given, Mapping):
        first = [_called(name, each) for name, each in given.items()]
    else:
        first = [_declaration(each, f"function {place}") for place, each in enumerate(given, 1)]
    found = (*first, *(Declaration(text).named(name) for name, text in (table or {}).items()))
    known = {**(functions or {}), **functions_of(found)}
    return tuple(replace(each, functions=known) for each in found) if known else found


def functions_of(declarations: Iterable[Declaration]) -> dict[str, Function]:
    """The functions of all declarations, by name. Raises `UsageError` where two have one name."""
    found: dict[str, Function] = {}
    for declaration in declarations:
        for name, function in declaration.functions.items():
            if found.setdefault(name, function) is not function:
                raise UsageError(f"two functions of slices are called {name!r}; give one another name")
    return found


def check_name(name: str) -> None:
    """Raises `UsageError` unless metric keys can call a slice so: `drop/NAME@TARGET`."""
    if not name.strip() or name != name.strip() or "@" in name or "\n" in name or name in RESERVED:
        raise UsageError(
            f"slice name {name!r} cannot be used in metric keys; it must be one line without '@' and blanks around it, "
            f"and not {' or '.join(map(repr, RESERVED))}"
        )


def _declaration(given: object, otherwise: str) -> Declaration:
    """What a workload declares; a function without a name of its own is called `otherwise`."""
    if isinstance(given, Declaration):
        return given
    if isinstance(given, str):
        return Declaration(given)
    if callable(given):
        own = getattr(given, "__name__", "")
        return where(given, own if own.isidentifier() else otherwise)
    raise UsageError(f"slice {given!r:.60} is neither a text nor a Declaration nor a function of a sample")


def _called(name: object, given: object) -> Declaration:
    if not isinstance(name, str):
        raise UsageError(f"slices: the name {name!r:.60} is no text; write {{'name': declaration}}")
    if callable(given) and not isinstance(given, Declaration):
        return where(given, name)
    return _declaration(given, name).named(name)


def _joined(one: Declaration, sign: str, other: Slice) -> Declaration:
    right = where(other) if callable(other) else _declaration(other, "")
    return Declaration(f"{_operand(one)} {sign} {_operand(right)}", functions=functions_of((one, right)))


def _operand(declaration: Declaration) -> str:
    text = declaration.text
    return f"({text})" if any(sign in text for sign in "&|!*") else text
