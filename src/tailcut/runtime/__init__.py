"""Devices, processes, signals and progress: what long work on one or many machines needs."""
