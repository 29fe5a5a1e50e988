"""Outputs of networks on images of the user: classes, masks, objects, samples, explanations."""
