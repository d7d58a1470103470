"""Perturbations by name: the workload's own first, then the built-in ones, then those of other packages."""

from __future__ import annotations

from autotune import plugins
from autotune.errors import UsageError, did_you_mean
from autotune.perturbations import audio, images, text
from autotune.perturbations.protocol import Perturbation, users_own
from autotune.slices import MadeBy
from autotune.workload import Workload

GROUP = "hw_autotune.perturbations"  # entry points to (sample, strength, random numbers) -> sample

BUILT_IN: dict[str, Perturbation] = {
    "noise": Perturbation(images.noise, "standard deviation relative to the sample's own", 0.5, 0, 100, neutral=0),
    "blur": Perturbation(images.blur, "sigma in pixels", 2.0, 0, 1000, neutral=0),
    "contrast": Perturbation(images.contrast, "factor", 0.5, 0, 1000, neutral=1),
    "brightness": Perturbation(images.brightness, "share of the sample's range", 0.2, -1, 1, neutral=0),
    "jpeg": Perturbation(images.jpeg, "quality", 20.0, 1, 95),
    "resample": Perturbation(images.resample, "factor", 2.0, 1, 1000, neutral=1),
    "token_noise": Perturbation(text.token_noise, "share of the tokens", 0.1, 0, 1, neutral=0),
    "casing": Perturbation(
        text.casing, "", "upper", words=("upper", "lower", "random"), resizes=True, text=text.casing_text
    ),
    "gain": Perturbation(audio.gain, "decibels", -12.0, -120, 120, neutral=0),
    "hiss": Perturbation(audio.hiss, "signal-to-noise ratio in decibels", 20.0, -60, 120),
    "reverb": Perturbation(audio.reverb, "seconds until -60 dB", 0.5, 0, 30, neutral=0),
}


def find(call: MadeBy, workload: Workload) -> Perturbation:
    """The perturbation that a declaration calls. Raises `UsageError` for an unknown name or a strength that cannot
    be."""
    name = call.function
    if name in workload.perturbations:
        found = users_own(workload.perturbations[name])
    elif name in BUILT_IN:
        found = BUILT_IN[name]
    elif name in plugins.names(GROUP):
        found = users_own(plugins.load(GROUP, name))
    else:
        known = {*workload.perturbations, *BUILT_IN, *plugins.names(GROUP)}
        raise UsageError(f"unknown perturbation {name!r}; {did_you_mean(name, known)}")
    found.check(call)
    return found
