"""What each technique would do on this model and these targets: for people who want to know before they spend time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from autotune.config import StudyConfig
from autotune.keys import parse_key
from autotune.search.prepare import Prepared
from autotune.search.zeros import STAGE, Zeros
from autotune.techniques.protocol import RESIZING, STAGES, Stage, Technique


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LeftAlone(_Record):
    """Layers, or other parts of the model, that a technique does not touch, and why."""

    reason: str
    names: tuple[str, ...]


class Offer(_Record):
    """One technique: `decisions` is how many choices the search makes, for `layers` layers, each out of `choices` (not
    every layer has them all)."""

    technique: str
    stage: Stage
    decisions: int
    layers: int
    choices: tuple[str, ...]
    left_alone: tuple[LeftAlone, ...]
    told: str = ""  # what else the technique says of itself on these targets


def notes(config: StudyConfig, found: Sequence[Offer]) -> Iterator[str]:
    """What a user of these techniques would trip over."""
    sparse = next((offer for offer in found if offer.stage == STAGE and offer.decisions), None)
    asked = {key.name for key in config.objective_keys} | {parse_key(text).name for text in config.limits}
    if sparse is not None and "download_bytes" not in asked:
        yield (
            f"{sparse.technique}: zeros make a smaller download, and nothing in the study asks for that; add "
            "download_bytes to search.objectives"
        )
    structural = [offer.technique for offer in found if offer.stage in RESIZING and offer.decisions]
    if structural and config.recover is None:
        yield (
            f"{' and '.join(structural)}: without training data structures are judged as they are cut, which few "
            "survive; give Workload.train and a table [recover]"
        )


def told(found: Sequence[Offer], zeros: Mapping[str, Sequence[Zeros]]) -> Iterator[str]:
    """What techniques do on these targets: what they say of themselves, and what was measured. `zeros`: target -> what
    they buy there."""
    for offer in found:
        if offer.told:
            yield f"{offer.technique}: {offer.told}"
        if offer.stage == STAGE and offer.decisions:
            measured = [each.sentence for every in zeros.values() for each in every]
            for sentence in measured or ["no target's times count here, so what zeros do to them was not measured"]:
                yield f"{offer.technique}: {sentence}"


def offers(prepared: Prepared) -> tuple[Offer, ...]:
    """One for every technique that the search decides about, in the order in which a recipe is carried out."""
    techniques = prepared.assembler.techniques
    names = sorted(techniques, key=lambda name: STAGES.index(techniques[name].stage))
    return tuple(_offer(prepared, name) for name in names if techniques[name].stage != "recover")


def _offer(prepared: Prepared, name: str) -> Offer:
    technique = prepared.assembler.techniques[name]
    if technique.scope == "graph":
        whole = prepared.space.fixed[name]
        return Offer(
            technique=name, stage=technique.stage, decisions=0, layers=0, choices=tuple(whole.values()), left_alone=()
        )
    own = [variable for variable in prepared.space.variables if variable.technique == name]
    touched = {layer for variable in own for layer in variable.layers}
    why: dict[str, list[str]] = {}
    for reason, layer in _reasons(prepared, name, touched):
        why.setdefault(reason, []).append(layer)
    return Offer(
        technique=name,
        stage=technique.stage,
        decisions=len(own),
        layers=len(touched),
        choices=tuple(dict.fromkeys(choice for variable in own for choice in variable.choices[1:])),
        left_alone=tuple(LeftAlone(reason=reason, names=tuple(names)) for reason, names in why.items()),
        told=getattr(technique, "told", str)() if own else "",
    )


def _led(technique: Technique) -> dict[str, str]:
    """Layer -> why it has no choice of its own, where another layer stands for all that change together."""
    leads: Callable[[], Mapping[str, str]] = getattr(technique, "leads", dict)
    return {layer: f"it changes with {leader}" for layer, leader in leads().items()}


def _reasons(prepared: Prepared, name: str, touched: set[str]) -> Iterator[tuple[str, str]]:
    """(reason, layer) of everything that the technique leaves alone."""
    told = _led(prepared.assembler.techniques[name])
    told |= {skipped.name: skipped.reason for skipped in prepared.left_alone.get(name, ())}
    for layer in prepared.ingested.inspection.layers:
        if layer.name in touched:
            continue
        yield told.pop(layer.name, f"no choice for {layer.op} of this shape that every target runs"), layer.name
    for other, reason in told.items():
        if other not in touched:
            yield reason, other
