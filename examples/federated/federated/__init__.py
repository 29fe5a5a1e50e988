"""A Flower app in which server and clients exchange packed networks."""
