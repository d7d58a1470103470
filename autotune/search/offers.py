"""What each technique would do on this model and these targets: for people who want to know before they spend time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from pydantic import BaseModel, ConfigDict

from autotune.config import StudyConfig
from autotune.keys import parse_key
from autotune.layers import Layer
from autotune.search.prepare import Prepared
from autotune.search.space import Spared, Variable, changed_by
from autotune.search.zeros import STAGE, Zeros
from autotune.techniques.protocol import RESIZING, STAGES, Stage, Technique
from autotune.techniques.prune.units import Unit


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class LeftAlone(_Record):
    """Layers, or other parts of the model, that a technique does not touch, and why."""

    reason: str
    names: tuple[str, ...]


class LeftOutChoice(_Record):
    """A choice that is not offered for some layers that the technique has other choices for, and why."""

    choice: str
    layers: int
    reason: str


class Part(_Record):
    """Something that is cut as a whole, under the name of `layer`. `size`, `total`, `even` and `normed`: see
    `autotune.techniques.prune.units.Unit`; `changes` are the other layers that are cut with it."""

    layer: str
    kind: str
    size: int
    changes: tuple[str, ...]
    choices: tuple[str, ...]
    total: int = 0
    even: bool = True
    normed: bool = False


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
    parts: tuple[Part, ...] = ()  # what it cuts, in execution order
    lost: tuple[LeftOutChoice, ...] = ()


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
        parts=tuple(_parts(technique, own)),
        lost=tuple(_lost(prepared, technique, own)),
    )


def _lost(prepared: Prepared, technique: Technique, own: Sequence[Variable]) -> Iterator[LeftOutChoice]:
    """Choices that layers do not have which have others; those of excluded layers are told by `_reasons`."""
    offered = _choices(own)
    every = tuple(dict.fromkeys(choice for choices in offered.values() for choice in choices))
    groups = {layer: each.layers for each in own for layer in each.layers if len(each.layers) > 1}
    spared = {(each.layer, choice) for each in prepared.space.spared for choice in each.choices}
    says: Callable[[Layer], Mapping[str, str]] | None = getattr(technique, "lost", None)
    found: dict[tuple[str, str], int] = {}
    for layer in prepared.ingested.inspection.layers:
        if layer.name not in offered:
            continue
        told = dict(says(layer)) if says is not None else {}
        if technique.stage == "precision":  # formats that no layer has are told by target
            why = "not every target runs it on such a layer"
            if layer.name in groups:
                why = "not every target runs it on all layers of the group"
            told = {choice: told.get(choice, why) for choice in every}
        for choice, reason in told.items():
            if choice not in offered[layer.name] and (layer.name, choice) not in spared:
                found[choice, reason] = found.get((choice, reason), 0) + 1
    for (choice, reason), count in found.items():
        yield LeftOutChoice(choice=choice, layers=count, reason=reason)


def _choices(own: Iterable[Variable]) -> dict[str, tuple[str, ...]]:
    """Layer -> what the search may choose for it."""
    return {layer: each.offered.get(layer, each.choices[1:]) for each in own for layer in each.layers}


def _parts(technique: Technique, own: Sequence[Variable]) -> Iterator[Part]:
    """The technique's units, those that the search can decide about."""
    units: Sequence[Unit] = getattr(technique, "units", tuple)()
    offered = _choices(own)
    for unit in units:
        choices = tuple(choice for choice in unit.choices if choice in offered.get(unit.layer, ()))
        if choices:
            others = tuple(layer for layer in unit.layers if layer != unit.layer)
            yield Part(
                layer=unit.layer, kind=unit.kind, size=unit.size, changes=others, choices=choices,
                total=unit.total, even=unit.even, normed=unit.normed,
            )  # fmt: skip


def _led(technique: Technique, own: Sequence[Variable]) -> dict[str, str]:
    """Layer -> why it has no choice of its own, where other layers stand for all that change together."""
    leaders: dict[str, dict[str, None]] = {}
    for leader, choices in _choices(own).items():
        for choice in choices:
            for layer in changed_by(technique, leader, choice):
                leaders.setdefault(layer, {})[leader] = None
    return {layer: f"it changes with {_listed(tuple(its))}" for layer, its in leaders.items()}


def _would_change(spared: Iterable[Spared]) -> dict[str, str]:
    """Layer -> the excluded layers that what it is part of would change."""
    excluded: dict[str, dict[str, None]] = {}
    for each in spared:
        for layer in each.changes:
            excluded.setdefault(layer, {}).update(dict.fromkeys(each.excluded))
    return {layer: f"would change the excluded {_listed(tuple(its))}" for layer, its in excluded.items()}


def _listed(names: Sequence[str]) -> str:
    """a; a and b; a, b and c."""
    return " and ".join([*([", ".join(names[:-1])] if names[:-1] else []), *names[-1:]])


def _reasons(prepared: Prepared, name: str, touched: set[str]) -> Iterator[tuple[str, str]]:
    """(reason, layer) of everything that the technique leaves alone."""
    own = [variable for variable in prepared.space.variables if variable.technique == name]
    spared = [each for each in prepared.space.spared if each.technique == name]
    told = _would_change(spared) | _led(prepared.assembler.techniques[name], own)
    told |= {skipped.name: skipped.reason for skipped in prepared.left_alone.get(name, ())}
    refused = _would_change(spared)
    told |= {each.layer: refused[each.layer] for each in spared if each.layer not in touched}
    told |= dict.fromkeys(prepared.space.excluded, "excluded")
    for layer in prepared.ingested.inspection.layers:
        if layer.name in touched:
            continue
        yield told.pop(layer.name, f"no choice for {layer.op} of this shape that every target runs"), layer.name
    for other, reason in told.items():
        if other not in touched:
            yield reason, other
    for each in spared:
        if each.layer in touched:  # some of its choices are left
            yield f"{_listed(each.choices)} would change the excluded {_listed(each.excluded)}", each.layer
