"""Perturbed copies of samples: what a camera, a network or a keyboard does to inputs, as slices to judge by.

A slice names one as a call with its strength: blur(2), token_noise(0.1) & kind=phrase. Built in are, for pictures,
noise, blur, contrast, brightness, jpeg and resample; for text token_noise and casing; for sound gain, hiss and reverb.
A workload adds its own under `Workload.perturbations`, a package under the entry points `hw_autotune.perturbations`:
functions (sample, strength, random numbers) -> sample.
"""

from autotune.perturbations.copies import Copies, perturbed
from autotune.perturbations.protocol import Perturbation
from autotune.perturbations.registry import BUILT_IN, GROUP, find

__all__ = ["BUILT_IN", "GROUP", "Copies", "Perturbation", "find", "perturbed"]
