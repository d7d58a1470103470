"""Perturbed copies of samples: what a camera, a network or a keyboard does to inputs, as slices to judge by."""
