"""Set-up of a training: the network, the optimiser and the schedule of a recipe."""
