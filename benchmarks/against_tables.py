"""The page of tables of `against_tools.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

OURS = "hw-autotune"
Row = Mapping[str, Any]


def markdown(record: Mapping[str, Any]) -> str:
    """The record as a page: one table of tools over all models, one of the best artifacts for each model."""
    size, latency, drop = record["corner"]
    text = [
        "# Our search against published tools",
        "",
        f"`{record['command']}`; artifacts measured and judged by onnxruntime {record['onnxruntime']}, one thread, "
        "interleaved with the original. Size and latency are ratios to the original, below 1 is better; drops are "
        "points of accuracy on held-out samples. Hypervolume between "
        f"({size:g}, {latency:g}, {100 * drop:g} points), with the upper end of a latency's interval: larger is "
        "better, and an artifact that is larger or slower than the original or loses more adds nothing. Seconds are "
        "wall time from start to end; they can be compared where the load of the machine (average over a minute, when "
        "the tool began and when it ended) was alike.",
        "",
        "| model | tool | hypervolume | of ours | artifacts | failed | seconds | of CPU | load | ended |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, model in record["models"].items():
        own = model["tools"].get(OURS, {}).get("volume", 0.0)
        for tool, result in sorted(model["tools"].items(), key=lambda item: -item[1]["volume"]):
            failed = sum("failed" in row for row in result["rows"])
            about = result.get("version", "")
            if "recorded" in result:
                about = f"({result['trials']} trials, recorded {result['recorded'][:10]})"
            share = f"{result['volume'] / own:.2f}" if own else ""
            text.append(
                f"| {name} | {tool} {about} | {result['volume']:.4f} | {share} | "
                f"{len(result['rows'])} | {failed} | {result['seconds']:.0f} | {_cpu(result)} | {_load(result)} | "
                f"{result['ended']} |"
            )
        union = model["union_of_tools"]
        share = f"{union / own:.2f}" if own else ""
        text.append(f"| {name} | all tools but ours together | {union:.4f} | {share} | | | | | | |")
    for name, model in record["models"].items():
        text += ["", f"## {name}", "", f"Written {model['date'][:10]}. {model.get('remark', '')}".strip(), ""]
        text += ["| tool | artifact | size | latency | drop | worst slice | its drop | plain loop, latency |"]
        text += ["|---|---|---|---|---|---|---|---|"]
        if "ratio" in model.get("given", {}):
            text.append(f"| none | what the tools were given, {_cells(model['given'])} |")
        for tool, result in model["tools"].items():
            for row in _best(result["rows"], record["corner"][2]):
                text.append(f"| {tool} | {_cells(row)} |")
        errors = [(tool, error) for tool, result in model["tools"].items() for error in _errors(result)]
        if errors:
            text += ["", "What did not work, in the tools' and onnxruntime's own words:", ""]
            text += [f"- {tool}: {error}" for tool, error in errors]
    return "\n".join(text) + "\n"


def _cpu(result: Mapping[str, Any]) -> str:
    return f"{result['cpu_seconds']:.0f}" if "cpu_seconds" in result else "not recorded"


def _load(result: Mapping[str, Any]) -> str:
    known = result.get("load_average")
    return " to ".join(f"{load:.1f}" for load in known) if known else "not recorded"


def _best(rows: Sequence[Row], most: float) -> list[Row]:
    """The three quickest of those that keep the quality; where none does, the quickest."""
    ran = sorted((row for row in rows if "ratio" in row), key=lambda row: row["ratio"]["value"])
    kept = [row for row in ran if "worst_drop" in row and row["worst_drop"]["value"] <= most]
    return kept[:3] or ran[:1]


def _cells(row: Row) -> str:
    ratio, lost = row["ratio"], f"{row.get('not_judged', '')} | | "
    if "worst_drop" in row:
        lost = f"{100 * row['drop']:.1f} | {row['worst_slice']} | {100 * row['worst_drop']['value']:.1f}"
    return (
        f"{row['file']} | {row['size']:.3f} | {ratio['value']:.3f} [{ratio['low']:.3f}, {ratio['high']:.3f}] | "
        f"{lost} | {row['plain_loop_ratio']:.3f}"
    )


def _errors(result: Mapping[str, Any]) -> list[str]:
    refused = [f"{row['file']}: {row['failed']}" for row in result["rows"] if "failed" in row]
    lines = [*result.get("errors", []), *refused]
    return [" ".join(line.replace("|", "/").split())[:300] for line in lines]
