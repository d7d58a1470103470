"""What a store knows of a trial in further runtime families, and of what holds it back: for bundles and readers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from autotune import pareto
from autotune.config import Family, StudyConfig
from autotune.search.across import stored_across, words
from autotune.search.agreement import stored_parity
from autotune.search.beside import stored_beside
from autotune.trial import Trial

if TYPE_CHECKING:
    from autotune.store import Store


def further_evidence(store: Store, trial: Trial, config: StudyConfig) -> dict[str, Any]:
    """As JSON: each further family with its artifact, layers, judgements and parity; how far the answers of the
    artifacts lie apart; what was timed beside the best uniform recipe. Nothing where there is one family and no guard.
    """
    if not config.families:
        return {}
    elsewhere = []
    for other in trial.elsewhere:
        parity = stored_parity(store, other.artifact.digest)
        elsewhere.append(
            {**other.model_dump(mode="json"), "parity": parity.model_dump(mode="json") if parity is not None else None}
        )
    beside = {}
    for family in config.families:
        for target in family.targets:
            artifact = trial.artifact_for(target)
            found = stored_beside(store, target, artifact.digest) if artifact is not None and family.guard else None
            if found is not None:
                beside[target] = found.model_dump(mode="json")
    pairs = stored_across(store, trial)
    return {
        "elsewhere": elsewhere,
        "across": {"pairs": [pair.model_dump(mode="json") for pair in pairs], "words": words(pairs)},
        "beside_uniform": beside,
    }


def not_offered(trials: Sequence[Trial], trial: Trial, config: StudyConfig) -> dict[str, str]:
    """Guarded target -> why `trial` is not offered there, naming what is; "" where it is offered."""
    found = pareto.guards(trials, config, config.limits)
    return {
        target: f"not faster with certainty than {guard.name}, which is offered instead: {why}" if why else ""
        for target, guard in found.items()
        for why in [guard.refuses(trial)]
    }


def main_family(families: Sequence[Family]) -> Family | None:
    """The family whose artifact ONNX Runtime runs as it is: the first such one, or None."""
    return next((family for family in families if family.runtime == "onnxruntime"), None)
