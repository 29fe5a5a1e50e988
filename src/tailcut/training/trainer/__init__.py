"""Trainers: the training loop, and its variants for detectors and GANs."""
