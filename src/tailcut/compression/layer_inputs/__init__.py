"""What the weights of a network are multiplied with."""
