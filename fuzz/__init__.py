"""Fuzzing: what reads what others wrote is tried with contents that nobody wrote. `python -m fuzz`, or `make fuzz`."""
