"""The pages of `rounding.py` and `rounding_tools.py`: their records as tables, one section per study."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def rounding_page(record: Mapping[str, Any]) -> str:
    """Damage by format and way of rounding."""
    loads = [row["load_average"] for row in record["results"]]
    text = [
        "# Rounding: damage at equal size and latency",
        "",
        f"Written {record['date'][:10]}, onnxruntime {record['onnxruntime']}, one thread, by",
        "",
        *(f"- `{command}`" for command in dict.fromkeys(record["commands"])),
        "",
        "Damage is sum |dy|² / sum |y|² of the outputs on held-out inputs, in brackets 95 % intervals of its ratio to "
        "that of nearest in the same format; time is CPU time against that, of the same kernels, measured at load "
        f"averages of {min(loads):.1f} to {max(loads):.1f}. With `insert` a node more is run in front of products "
        "whose scale cannot be folded into what is there.",
    ]
    for study, facts in record["studies"].items():
        rows = [row for row in record["results"] if row["study"] == study]
        text += [
            "",
            f"## {study}",
            "",
            f"Accuracy of the original on the same inputs: {facts['accuracy']:.3f}.",
            "",
            *_told_apart(rows),
            "",
            "| format | rounding | inputs | damage | against nearest | KL | accuracy | bytes | time | CPU s to apply |",
            "|---|---|---|---|---|---|---|---|---|---|",
        ]
        for row in rows:
            text.append(
                f"| {row['format']} | {row['way']} | {row['samples']} | {row['relative_error']:.3g} | "
                f"{ratio(row['against_nearest'], 3)} | {row['divergence']:.3g} | {row['accuracy']:.3f} | "
                f"{row['size_bytes']:,} | {ratio(row['latency_against_nearest'], 2)} | {row['assemble_cpu_s']:.1f} |"
            )
        text += _requested(rows)
    return "\n".join(text) + "\n"


def _told_apart(rows: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """For each format what does less or more damage than nearest, and how much is not told apart from it."""
    for choice in dict.fromkeys(row["format"] for row in rows):
        tried = [row for row in rows if row["format"] == choice and row["way"] != "nearest"]
        less = [row["way"] for row in tried if row["against_nearest"]["high"] < 1]
        more = [row["way"] for row in tried if row["against_nearest"]["low"] > 1]
        parts = [f"less damage than nearest: {'; '.join(less)}" if less else "nothing does less damage than nearest"]
        parts += [f"more: {'; '.join(more)}"] if more else []
        parts += [f"not told apart from it: {len(tried) - len(less) - len(more)} of {len(tried)} ways"]
        if tried:
            yield f"- {choice}: " + ". ".join(each[0].upper() + each[1:] for each in parts) + "."


def _requested(rows: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    """Formats that are offered on request only, against the ones that they are an answer to."""
    found = [row for row in rows if "against_relative" in row]
    if found:
        yield from ("", "Formats on request against those next to them, rounded in the same way:", "")
        yield from ("| format | against | rounding | damage | bytes | time |", "|---|---|---|---|---|---|")
    for row in found:
        against = row["against_relative"]
        yield (
            f"| {row['format']} | {against['format']} | {row['way']} | {ratio(against['damage'], 3)} | "
            f"{against['size']:.3f} | {ratio(against['time'], 2)} |"
        )


def tools_page(record: Mapping[str, Any], ours: str) -> str:
    """Damage of the tools' artifacts and of ours, `ours` being the way that they are compared with."""
    versions = ", ".join(f"{name} {version}" for name, version in record["tools"].items())
    text = [
        "# Damage in the same format: ours and the published quantisers",
        "",
        f"Written {record['date'][:10]}; {versions}; judged by onnxruntime {record['onnxruntime']}, one "
        "thread. Damage is sum |dy|² / sum |y|² of the outputs on held-out inputs; in brackets 95 % intervals. "
        f"“Ours / it” is the damage of our {ours} over that of the tool in the same format: below 1 ours is better. "
        "Nothing is timed here: the operators say which kernels run, and the same kernels take the same time.",
        "",
        "Sizes differ: some tools write tables in 8 bit too, some leave convolutions in float32, and some write "
        "float32 weights with the quantisation beside them. “Size” is that of the file over that of our usual one in "
        "the format. “At its size” is the damage of our largest file that is not more than 10 % larger than "
        f"the tool's, rounded with {ours}, over that of the tool's, with how many of its bytes ours has; it is empty "
        "where all of ours are larger, and for rows of an earlier run. NNCF's files in 4 bit are read with their "
        "scales per channel written as vectors, as the operator's definition has them; the numbers are NNCF's.",
    ]
    for study, facts in record["studies"].items():
        rows = [each for each in record["results"] if each["study"] == study]
        commands = [each["command"] for each in rows if "command" in each]
        unknown = sum("command" not in each for each in rows)
        commands += facts.get("commands", []) if unknown else []
        text += [
            "",
            f"## {study}",
            "",
            *(f"- `{command}`" for command in dict.fromkeys(commands)),
            *([f"- {unknown} rows are of a run whose command was not recorded"] if unknown else []),
            "",
            f"{facts['samples']} held-out inputs, {facts['calibration_inputs']} for calibration; accuracy of the "
            f"original {facts['accuracy']:.3f}.",
            "",
            "| format | by | way | damage | to our nearest | ours / it | at its size | size | KL | accuracy | bytes | "
            "operators |",
            "|---|---|---|---|---|---|---|---|---|---|---|---|",
        ]
        text += [_tool_row(each, rows) for each in rows]
    return "\n".join(text) + "\n"


def _tool_row(row: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> str:
    begin = f"| {row['format']} | {row['tool']} | {row['way']} | "
    if "failed" in row:
        return begin + row["failed"].replace("|", "/").replace("\n", " ") + " | | | | | | | | |"
    usual = next(r for r in rows if (r["format"], r["tool"], r["way"]) == (row["format"], "ours", "nearest"))
    mine = ratio(row["ours_against_it"]) if "ours_against_it" in row else ""
    equal = (
        f"{ratio(row['equal_size'])} ({row['equal_size']['way']}; {row['equal_size']['size']:.2f} of its bytes)"
        if "equal_size" in row
        else ""
    )
    counts = ", ".join(f"{count} {op}" for op, count in row["operators"].items())
    if "only_basic_optimisations" in row:
        counts += "; runs with basic optimisations only: " + row["only_basic_optimisations"].replace("|", "/")
    return (
        f"{begin}{row['relative_error']:.3g} | {ratio(row['against_nearest'])} | {mine} | {equal} | "
        f"{row['size_bytes'] / usual['size_bytes']:.2f} | {row['divergence']:.3g} | {row['accuracy']:.3f} | "
        f"{row['size_bytes']:,} | {counts} |"
    )


def ratio(told: Mapping[str, float], places: int | None = None) -> str:
    """A ratio with its interval, with so many decimals, or with three significant digits."""
    form = ".3g" if places is None else f".{places}f"
    return f"{told['ratio']:{form}} [{told['low']:{form}}, {told['high']:{form}}]"
