"""The network, the optimiser and the schedule that a recipe describes."""
