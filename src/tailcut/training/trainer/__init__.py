"""Trainers: the loop of all recipes, and what detectors and GANs do differently."""
