"""What is decided before a network is changed: which tensors, along which axes, with how many coefficients."""
