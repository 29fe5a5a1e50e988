"""Checkpoints of PyTorch and of other projects, read without running their code."""
