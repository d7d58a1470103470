"""`autotune export`: one trial as a bundle that ships, verified first."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autotune.cli.output import JsonFlag, StoreOption, StudyArgument, messages, print_json, results, say
from autotune.cli.sources import open_recorded, parse_trial
from autotune.errors import Infeasible

if TYPE_CHECKING:
    from autotune.config import StudyConfig
    from autotune.trial import Trial


_CHOICES = 3  # how often `best` is chosen again after it was measured again


def export(
    study: StudyArgument,
    trial: Annotated[
        str,
        typer.Argument(
            metavar="TRIAL|best|best@T",
            help="A trial's number, best: the recommended one, or best@T: the best for target T alone.",
        ),
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to write the bundle; new, empty, or a bundle.")],
    store: StoreOption = None,
    as_json: JsonFlag = False,
) -> None:
    """Measure a trial again, judge it on held-out data, and write model, recipe, evidence and report to DIR."""
    from autotune.api.watch import ProgressView
    from autotune.bundle import check_destination, export_bundle
    from autotune.config import load_study, load_workload
    from autotune.search.evidence import not_offered
    from autotune.search.study import Study
    from autotune.store import redact

    check_destination(folder)  # before any time is spent
    config, recorded = open_recorded(study, store)
    with recorded:
        number = _number(trial, recorded.trials(), config)
    loaded = load_study(study)
    workload = load_workload(loaded, say=say)
    with Study.open(config, workload, store=store, folder=loaded.folder) as opened:
        with ProgressView(messages()) as view:
            verified = opened.verify(number, view.update)
            guarded = any(family.guard for family in opened.config.families)
            for _ in range(_CHOICES if guarded and "best" in trial else 0):  # its new numbers may hold it back
                again = _number(trial, opened.store.trials(), config)
                if again == verified.number:
                    break
                say(f"measured again, trial {verified.number} is not the best any more; trial {again} is")
                verified = opened.verify(again, view.update)
        for target, why in not_offered(opened.store.trials(), verified, opened.config).items():
            if why:
                say(f"on {target} trial {verified.number} is not offered: {why}")
        export_bundle(
            opened.store,
            verified,
            folder,
            workload=workload,
            study=study,
            place=redact(store) if store else None,
            engines=opened.engines(verified),
        )
    if as_json:
        print_json({"bundle": str(folder), "trial": verified.number, "model": str(folder / "model.onnx")})
    else:
        results().print(f"bundle: {folder}", markup=False, soft_wrap=True)


def _number(text: str, trials: list[Trial], config: StudyConfig) -> int:
    from autotune.api import choose
    from autotune.api.several import own_best

    word, at, target = text.partition("@")
    if word != "best":
        return parse_trial(text)
    choice = choose(trials, config)
    if at and not (len(config.targets) == 1 and target in config.targets):
        return own_best(choice.target(target)).number
    if choice.recommended is not None:
        return choice.recommended.number
    raise Infeasible(str(choice.explanation) if choice.explanation is not None else choice.reason)
