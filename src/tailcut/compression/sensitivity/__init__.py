"""How much each number of a network matters."""
