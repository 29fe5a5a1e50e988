"""Scripts that work on the repository itself; they are no part of the package that is installed."""
