"""`autotune show`: everything that is known about one trial."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from autotune.cli.output import JsonFlag, StoreOption, StudyArgument, print_json, results
from autotune.cli.sources import open_recorded, parse_trial
from autotune.keys import format_amount, parse_key

if TYPE_CHECKING:
    from rich.console import Console

    from autotune.config import StudyConfig
    from autotune.store import Store
    from autotune.trial import Trial


def show(
    study: StudyArgument,
    trial: Annotated[str, typer.Argument(metavar="TRIAL", help="Its number; 0 is the original model.")],
    store: StoreOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Show one trial: recipe, layer map, numbers with intervals, slices, and why it failed if it did."""
    from autotune.search.across import stored_across, words
    from autotune.search.agreement import stored_parity
    from autotune.search.evidence import not_offered

    config, opened = open_recorded(study, store)
    with opened:
        found = opened.trial(parse_trial(trial))
        others = opened.trials()
        parity = stored_parity(opened, found.artifact.digest if found.artifact is not None else None)
        said = _judged(opened, found, others)
        zeros = _zeros(opened, config, found, others[0])
        across = words(stored_across(opened, found))
        held_back = not_offered(others, found, config)
    command = again(study, store, found)
    if as_json:
        from autotune.api.tables import verdict_data

        agreement = parity.model_dump(mode="json") if parity is not None else None
        told = {"parity": agreement, "judgement": said, "command": command, **verdict_data(found)}
        left_out = [left.model_dump() for left in config.left_out]
        print_json({**found.model_dump(mode="json"), **told, "left_out": left_out})
        return
    console = results()
    _header(console, found, config, others)
    _tables(console, found)
    for line in said:
        console.print(f"  {line}", markup=False, soft_wrap=True)
    if parity is not None:
        console.print(f"parity on {parity.samples} held-out samples: {parity.sentence}", markup=False, soft_wrap=True)
        for target in parity.targets:
            console.print(f"  {target.target}: {target.sentence}", markup=False, soft_wrap=True)
    for line in across:
        console.print(f"  {line}", markup=False, soft_wrap=True)
    for name, why in held_back.items():
        if why:
            console.print(f"not offered on {name}: {why}", markup=False, soft_wrap=True)
    for left in config.left_out:
        console.print(left.sentence, markup=False, soft_wrap=True)
    for line in zeros:
        console.print(line, markup=False, soft_wrap=True)
    if found.failure is not None:
        console.print(f"failed in {found.failure.stage} ({found.failure.kind}): {found.failure.message}", markup=False)
        if found.failure.traceback:
            console.print(found.failure.traceback.rstrip(), markup=False, style="dim")
    console.print(f"make it again: {command}", markup=False, soft_wrap=True)


def _zeros(opened: Store, config: StudyConfig, trial: Trial, original: Trial) -> list[str]:
    """What its zeros buy, for a trial that was sparsified."""
    from autotune.errors import AutotuneError
    from autotune.search.zeros import known
    from autotune.techniques.sparsity_report import what_sparsity_buys

    if "sparsify" not in trial.recipe or trial.artifact is None:
        return []
    try:
        found = what_sparsity_buys(opened.artifact_bytes(trial.artifact.digest))
    except AutotuneError:
        return ["zeros: the artifact is no longer in the store"]
    shares = [share for share in found["zeros"].values() if share >= 0.3]
    key = parse_key("download_bytes")
    before = original.metrics.get("download_bytes")
    whole = f", the original is {format_amount(before.value, key)}" if before is not None else ""
    ratios = [v for k, v in trial.metrics.items() if k.startswith("latency_ratio@")]
    speed = f"; in time {ratios[0].value:.3f}x, zeros and all else together" if ratios else ""
    alone = [f"zeros alone: {each.sentence}" for target in config.targets for each in known(opened, target)]
    mine = (
        f"zeros: {len(shares)} tensors hold 30 % or more of them; as a download the file is "
        f"{format_amount(found['compressed'], key)}{whole}{speed}"
    )
    return [mine, *alone]


def _judged(opened: Store, trial: Trial, others: list[Trial]) -> list[str]:
    """What the judgement of a trial says in words, its noise, and how often held-out data were used."""
    from autotune.api.tables import judged
    from autotune.judge.noise import NoiseFloor
    from autotune.judge.words import evaluation_sentences, points, record_sentence

    evaluation = judged(trial)
    if evaluation is None or not trial.number:
        return []
    lines = evaluation_sentences(evaluation)
    kept = opened.meta(f"noise/{evaluation.dataset_digest}")
    if kept is not None:
        lines.append(NoiseFloor.model_validate(kept["floor"]).sentence)
    worst = "drop/worst"
    if worst in trial.metrics and worst in trial.final:
        search, heldout = trial.metrics[worst].value, trial.final[worst].value
        lines.append(f"Worst slice: {points(search)} points on search data, {points(heldout)} on held-out data.")
    said = record_sentence(others, opened.heldout_uses())
    return [*lines, said] if said else lines


def again(study: str, store: str | None, trial: Trial) -> str:
    """The command that makes this trial again; passwords in the store's URL are masked."""
    from autotune.store import redact

    words = ["autotune", "export", study, str(trial.number), f"trial-{trial.number}"]
    if trial.artifact is None:  # there is nothing to export; running the study again tries failed steps again
        words = ["autotune", "run", study]
    return shlex.join([*words, *(["--store", redact(store)] if store else [])])


def _header(console: Console, trial: Trial, config: StudyConfig, others: list[Trial]) -> None:
    console.print(f"[bold]trial {trial.number}[/bold] of study {escape(config.name)}: {trial.state}")
    facts = [f"proposed by {trial.proposer or 'unknown'}"]
    if trial.artifact is not None:
        size = format_amount(trial.artifact.size_bytes, parse_key("size_bytes"))
        facts.append(f"{size} in dialect {trial.artifact.dialect}, sha256 {trial.artifact.digest}")
    for other in trial.elsewhere:
        size = format_amount(other.artifact.size_bytes, parse_key("size_bytes"))
        on = " and ".join(other.targets)
        facts.append(f"for {on} {size} in dialect {other.artifact.dialect}, sha256 {other.artifact.digest}")
    if trial.durations:
        facts.append(", ".join(f"{stage} {seconds:.1f} s" for stage, seconds in trial.durations.items()))
    for fact in facts:
        console.print(f"  {fact}", markup=False, soft_wrap=True)
    if trial.reason:
        console.print(f"  rejected: {trial.reason}", markup=False, soft_wrap=True)
    if not trial.recipe:
        console.print("  recipe: the original model" if trial.number == 0 else "  recipe: empty")
    for technique, layers in trial.recipe.items():
        if technique == "recover":
            named = ", ".join(f"{what} {name}" for what, name in layers.items())
            console.print(f"  recover: {named}", markup=False, soft_wrap=True)
            continue
        counts: dict[str, int] = {}
        for choice in layers.values():
            counts[choice] = counts.get(choice, 0) + 1
        summary = ", ".join(f"{count} x {choice}" for choice, count in sorted(counts.items(), key=lambda c: -c[1]))
        console.print(f"  {technique}: {summary}", markup=False, soft_wrap=True)
    if len(others) > 1:
        console.print(f"  {len(others)} trials are recorded in this study")


def _tables(console: Console, trial: Trial) -> None:
    from autotune.api.tables import HELDOUT, judged, layers_table, metrics_table, slices_table
    from autotune.cli.judged import evidence_table, verdict_table

    if trial.metrics or trial.final:
        console.print(metrics_table(trial, columns=console.width))
    evaluation = judged(trial)
    if evaluation is not None and trial.number:
        console.print(verdict_table(evaluation, columns=console.width, looks=evaluation.dataset != HELDOUT))
        console.print(evidence_table(evaluation))
    elif evaluation is not None:
        console.print(slices_table(evaluation, columns=console.width))
    for other in trial.elsewhere:
        there = judged(trial.on(other.targets[0]))
        if there is not None and trial.number:
            console.print(slices_table(there, columns=console.width))
    if trial.layers:
        console.print(layers_table(trial.layers, columns=console.width))
        for other in trial.elsewhere:
            console.print(f"in dialect {other.artifact.dialect}, on {other.targets[0]}:", markup=False)
            console.print(layers_table(other.layers, columns=console.width))
    else:
        for technique, layers in trial.recipe.items():  # not built: at least what was asked
            console.print(f"{technique}:", markup=False)
            for layer, choice in layers.items():
                console.print(f"  {layer}: {choice}", markup=False, soft_wrap=True)
