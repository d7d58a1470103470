"""What keyboards and sources do to text: on token ids as they go into the model, or on the text that they came from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

from autotune.errors import DataError, UsageError
from autotune.perturbations.protocol import Surroundings
from autotune.workload import Arrays, Sample

OTHER_IDS = ("mask", "type", "segment", "position")  # integer inputs with this in their name hold no tokens
SPECIAL_SHARE = 0.5  # a token that begins or ends this part of all samples is a marker of the tokeniser


def token_noise(sample: Sample, strength: float, rng: np.random.Generator, around: Surroundings) -> Arrays:
    """The share `strength` of the tokens, at least one, becomes other tokens of the same data, as often as they occur
    there: token_noise(0.1). The first and the last token, markers and what the attention mask hides stay."""
    inputs = dict(sample.inputs)
    changed = 0
    for name in token_inputs(sample.inputs):
        array = np.array(sample.inputs[name], order="C")
        flat = array.reshape(-1)  # a view of the copy
        places = _inner(sample.inputs, name)
        special = around.special.get(name, frozenset())
        places = places[~np.isin(flat[places], list(special))]
        pool = around.tokens.get(name, np.zeros(0, flat.dtype))
        if len(places) and len(np.unique(pool)) > 1:
            count = max(1, round(strength * len(places)))
            for place in rng.choice(places, size=count, replace=False):
                flat[place] = rng.choice(pool[pool != flat[place]])
            changed += count
        inputs[name] = array
    if not token_inputs(sample.inputs):
        shapes = ", ".join(f"{name} {array.dtype}{list(array.shape)}" for name, array in sample.inputs.items())
        raise DataError(
            f"perturbation token_noise: no input of sample {sample.id!r} looks like token ids ({shapes}); it takes "
            "integers [n] or [1, n]"
        )
    return inputs


def casing_text(sample: Sample, strength: str, rng: np.random.Generator) -> str:
    """The text in other letters: casing(upper), casing(lower), or casing(random), where each letter is drawn."""
    if not isinstance(sample.display, str):
        raise DataError(
            f"perturbation casing: sample {sample.id!r} has no text; give it as Sample.display, whole and as it is "
            "tokenised"
        )
    if strength == "upper":
        return sample.display.upper()
    if strength == "lower":
        return sample.display.lower()
    raised = rng.random(len(sample.display)) < 0.5
    return "".join(c.upper() if up else c.lower() for c, up in zip(sample.display, raised, strict=True))


def casing(sample: Sample, strength: str, rng: np.random.Generator, around: Surroundings) -> Arrays:
    """The text in other letters, turned into inputs by `Workload.encode`."""
    if around.encode is None:
        raise UsageError("perturbation casing needs Workload.encode, a function from a text to the model's inputs")
    return around.encode(casing_text(sample, strength, rng))


def token_inputs(inputs: Arrays) -> list[str]:
    """The inputs that hold token ids: integers [n] or [1, n] that are no mask, type or position."""
    return [
        name
        for name, array in inputs.items()
        if array.dtype.kind in "iu"
        and array.shape[-1:] == (array.size,)
        and not any(word in name.lower() for word in OTHER_IDS)
    ]


def vocabulary(samples: Iterable[Sample]) -> tuple[Mapping[str, np.ndarray], Mapping[str, frozenset[int]]]:
    """Per token input: the inner tokens of all samples, without markers, as often as they occur; and the markers."""
    seen: dict[str, list[np.ndarray]] = {}
    ends: dict[str, Counter[int]] = {}
    for sample in samples:
        for name in token_inputs(sample.inputs):
            flat, inner = sample.inputs[name].reshape(-1), _inner(sample.inputs, name)
            seen.setdefault(name, []).append(flat[inner])
            edge = _shown(sample.inputs, name)[[0, -1]] if len(inner) else np.zeros(0, int)
            ends.setdefault(name, Counter()).update({int(token) for token in flat[edge]})
    special = {
        name: frozenset(token for token, times in counts.items() if times >= SPECIAL_SHARE * len(seen[name]))
        for name, counts in ends.items()
    }
    joined = {name: np.concatenate(arrays) for name, arrays in seen.items()}
    return {name: tokens[~np.isin(tokens, list(special[name]))] for name, tokens in joined.items()}, special


def _inner(inputs: Arrays, name: str) -> np.ndarray:
    """Places of the tokens that count, without the first and the last one."""
    return _shown(inputs, name)[1:-1]


def _shown(inputs: Arrays, name: str) -> np.ndarray:
    """Places that the attention mask lets through. Without a mask of this length, a run of one token at the end is
    padding."""
    flat = inputs[name].reshape(-1)
    for other, array in inputs.items():
        if "mask" in other.lower() and array.size == flat.size:
            return np.flatnonzero(array.reshape(-1))
    run = next((i for i, token in enumerate(flat[::-1]) if token != flat[-1]), len(flat))
    return np.arange(len(flat) - run if run > 1 else len(flat))
