"""From the text of a declaration to what it means: a recursive descent over the characters.

    product   = union [ "*" union ]
    union     = both { "|" both }
    both      = one { "&" one }
    one       = "!" one | "(" product ")" | condition
    condition = column [ sign value | "in" "{" value { "," value } "}" ]
              | number ("<" | "<=") column [ ("<" | "<=") number ]
              | name "(" [ argument { "," argument } ] ")"

A word runs up to the next sign of the language; quotes hold anything. A value may hold parentheses in pairs.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from autotune.errors import UsageError
from autotune.slices.bands import Bands, Cuts
from autotune.slices.combinations import And, Not, Or, Product
from autotune.slices.expressions import (
    Between,
    ByThreshold,
    ByValue,
    Condition,
    Holds,
    MadeBy,
    Node,
    OneOf,
    OtherThan,
)

MAX_LENGTH = 2000  # characters; a declaration is a line of text
MAX_NESTING = 50

_SIGN = re.compile(r"!=|<=|>=|<|>|=")
_IN = re.compile(r"\s+in\s*\{")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
_BOUND = re.compile(rf"\s*{_NUMBER.pattern}\s*($|[&|*)])")
_FUNCTION = re.compile(r"[A-Za-z_]\w*")
_NOTHING = re.compile(r"\(\s*\)")  # between the parentheses of a workload's own function
_QUOTES = re.compile(r"""(["'])((?:\\.|(?!\1)[^\\])*)\1\s*(?=$|[&|*)<>=!{},]|in\s*\{|(\(\s*\)))""")
_ENDS = "&|*"
_EXAMPLES = "declare a column (font), a value (font=serif) or a threshold (length<8)"


@lru_cache(maxsize=4096)
def parse(declaration: str) -> Node:
    """Read one declaration. Raises `UsageError` that says where it cannot be read, and what would."""
    return _Parser(declaration).whole()


class _Parser:
    """Reads `source` from left to right; `at` is the next character."""

    def __init__(self, source: str) -> None:
        self.source, self.at, self.nesting = source, 0, 0

    def whole(self) -> Node:
        if not self.source.strip():
            raise UsageError(f"slice {self.source!r} is empty; {_EXAMPLES}")
        if len(self.source) > MAX_LENGTH:
            raise UsageError(f"slice {self.source[:40]!r}... is longer than {MAX_LENGTH} characters; {_EXAMPLES}")
        node = self.product()
        if self.peek():
            raise self.error(f"did not expect {self.peek()!r}", hint="put quotes around values with special characters")
        return node

    # -- operators, loosest first

    def product(self) -> Node:
        node = self.union()
        while self.peek() == "*":
            self.at += 1
            right = self.union()
            if node.depth + right.depth > 2:
                raise self.refusal(
                    "multiplies more than two columns",
                    "intersections go to depth 2, e.g. font * effect, because deeper ones hold too few samples; "
                    "name a deeper one that matters with &",
                )
            if node.columns() & right.columns():
                shared = min(node.columns() & right.columns())
                raise self.refusal(f"multiplies the column {shared!r} by itself", "give two different columns")
            node = self.once(Product(node, right), (node, right))
        return node

    def union(self) -> Node:
        parts = [self.both()]
        while self.peek() == "|":
            self.at += 1
            parts.append(self.both())
        if len(parts) == 1:
            return parts[0]
        made = [bool(part.made_by()) for part in parts]
        if any(made) and not all(made):
            raise self.refusal("joins perturbed samples and samples as they were given", "declare two slices instead")
        return Or(tuple(self.single(part, "|") for part in parts))

    def both(self) -> Node:
        parts = [self.one()]
        while self.peek() == "&":
            self.at += 1
            parts.append(self.one())
        if len(parts) == 1:
            return parts[0]
        families = [part.text for part in parts if part.depth]
        if len(families) > 1:
            raise self.refusal(
                f"{families[0]} and {families[1]} each stand for several slices",
                f"write {families[0]} * {families[1]} for all intersections",
            )
        return self.once(And(tuple(parts)), tuple(parts))

    def one(self) -> Node:
        begun = self.skip()
        if self.peek() == "!":
            self.at += 1
            part = self.deeper(self.one)
            if part.made_by():
                raise self.refusal("'!' of a perturbation is no slice", "declare the perturbation by itself")
            return Not(self.single(part, "!"))
        if self.peek() == "(":
            self.at += 1
            node = self.deeper(self.product)
            if self.peek() != ")":
                raise self.error("expected ')'", hint=f"the parenthesis at character {begun + 1} is still open")
            self.at += 1
            return node
        return self.condition()

    # -- conditions

    def condition(self) -> Node:
        begun = self.skip()
        word = self.column()
        sign = _SIGN.match(self.source, self.skip())
        if sign is not None:
            self.at = sign.end()
            return self.compared(word, sign[0], begun)
        if self.peek() == "(":
            return self.call(word, begun)
        found = _IN.match(self.source, len(self.source[: self.at].rstrip()))
        if found is not None:
            self.at = found.end()
            return OneOf(word, tuple(self.listed("}")))
        return ByValue(word)

    def compared(self, word: str, sign: str, begun: int) -> Node:
        ahead = self.at
        if _NUMBER.fullmatch(word) and sign.startswith("<") and not _BOUND.match(self.source, self.at):
            return self.between(float(word), sign)
        self.at = ahead
        value = self.value(f"expected a value after {sign!r}")
        if sign == "=":
            return ByValue(word, value)
        if sign == "!=":
            return OtherThan(word, value)
        try:
            return ByThreshold(word, sign, float(value))
        except ValueError:
            raise self.error(f"{value!r} is not a number", ahead) from None

    def between(self, low: float, low_sign: str) -> Node:
        column = self.column()
        sign = _SIGN.match(self.source, self.skip())
        if sign is None:
            return ByThreshold(column, {"<": ">", "<=": ">="}[low_sign], low)
        if sign[0] not in ("<", "<="):
            raise self.error(f"expected '<' or '<=' instead of {sign[0]!r}", hint="write 8 <= length < 20")
        self.at = sign.end()
        number = _NUMBER.match(self.source, self.skip())
        if number is None:
            raise self.error("expected a number")
        self.at = number.end()
        return Between(low, low_sign, column, sign[0], float(number[0]))

    def call(self, function: str, begun: int) -> Node:
        if function not in ("bands", "cuts") and (nothing := _NOTHING.match(self.source, self.at)):
            self.at = nothing.end()
            return Holds(function)
        if _FUNCTION.fullmatch(function) is None:
            raise self.error(f"{function!r} is no name of a perturbation", begun, hint=f'a column is "{function}"')
        self.at += 1
        arguments = self.listed(")")
        if function == "bands":
            if len(arguments) != 2 or not arguments[1].isdecimal() or not 2 <= int(arguments[1]) <= 20:
                raise self.refusal("bands need a column and a count of 2 to 20", "write e.g. bands(length, 3)")
            return Bands(arguments[0], int(arguments[1]))
        if function == "cuts":
            numbers = [float(each) for each in arguments[1:] if _NUMBER.fullmatch(each)]
            if not numbers or len(numbers) != len(arguments) - 1 or numbers != sorted(set(numbers)):
                raise self.refusal("cuts need a column and rising edges", "write e.g. cuts(length, 8, 20)")
            return Cuts(arguments[0], tuple(numbers))
        if len(arguments) != 1:
            raise self.refusal(f"the perturbation {function!r} has one strength", f"write e.g. {function}(2)")
        (argument,) = arguments
        return MadeBy(function, float(argument) if _NUMBER.fullmatch(argument) else argument)

    def listed(self, end: str) -> list[str]:
        """Words with commas between them, up to `end`."""
        words = [self.word(f"expected a value before {end!r}", f",{end}")]
        while self.peek() == ",":
            self.at += 1
            words.append(self.word("expected a value after ','", f",{end}"))
        if self.peek() != end:
            raise self.error(f"expected {end!r}")
        self.at += 1
        return words

    # -- words

    def column(self) -> str:
        return self.word("expected a column", f"{_ENDS}()<>={{}},")

    def value(self, wanted: str) -> str:
        return self.word(wanted, _ENDS, pairs=True)

    def word(self, wanted: str, ends: str, *, pairs: bool = False) -> str:
        """A word up to one of `ends`, or what is in quotes. With `pairs`, parentheses belong to it as long as they are
        closed again."""
        begun = self.skip()
        if self.peek() in ("'", '"') and (inside := self.in_quotes("(" in ends)) is not None:
            return inside
        depth = 0
        while self.at < len(self.source):
            char = self.source[self.at]
            if char in ends or (pairs and char == ")" and not depth):
                break
            if not pairs and (self.source.startswith("!=", self.at) or _IN.match(self.source, self.at)):
                break
            depth += (char == "(") - (char == ")") if pairs else 0
            self.at += 1
        word = self.source[begun : self.at].strip()
        if not word:
            raise self.error(wanted, begun, hint="" if begun else _EXAMPLES)
        return word

    def in_quotes(self, called: bool) -> str | None:
        """The text in quotes; None where the quote is a letter of a word, as in 'n' roll. `called`: it may be the name
        of a function, with parentheses behind it."""
        found = _QUOTES.match(self.source, self.at)
        if found is None or (found[3] and not called):
            return None
        inside = re.sub(r"\\(.)", r"\1", found[2])
        if not inside.strip():
            raise self.error("nothing is in the quotes")
        self.at = found.end()
        return inside

    # -- what is around

    def skip(self) -> int:
        """Pass blanks; the position of what comes then."""
        while self.source[self.at : self.at + 1].isspace():
            self.at += 1
        return self.at

    def peek(self) -> str:
        """The next character that is no blank, "" at the end."""
        return self.source[self.skip() : self.at + 1]

    def deeper(self, read: Callable[[], Node]) -> Node:
        """Read something inside of something, up to a depth that no person writes."""
        self.nesting += 1
        if self.nesting > MAX_NESTING:
            raise self.error(f"is nested deeper than {MAX_NESTING}")
        node = read()
        self.nesting -= 1
        return node

    def single(self, part: Node, sign: str) -> Condition:
        """A part that is one slice, as `!` and `|` need."""
        if part.depth or not isinstance(part, Condition):
            raise self.refusal(
                f"{sign!r} is for single slices, and {part.text} stands for several",
                "name one of them, e.g. font=serif",
            )
        return part

    def once(self, node: Node, parts: tuple[Node, ...]) -> Node:
        """No sample is made by two perturbations."""
        made = [part for part in parts if part.made_by()]
        if len(made) > 1:
            raise self.refusal(
                f"no sample is made by both {made[0].text} and {made[1].text}",
                "declare two slices, or join them with |",
            )
        return node

    def refusal(self, problem: str, hint: str) -> UsageError:
        """What can be read but means nothing."""
        return UsageError(f"slice {self.source!r}: {problem}; {hint}")

    def error(self, problem: str, at: int | None = None, *, hint: str = "") -> UsageError:
        place = (self.skip() if at is None else at) + 1
        return UsageError(f"slice {self.source!r}: {problem} at character {place}" + (f"; {hint}" if hint else ""))
