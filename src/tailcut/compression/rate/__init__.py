"""Training for bytes: the length of the file in the loss."""
