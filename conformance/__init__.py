"""The conformance corpus of `.tailcut` files, and a reference reader: `python -m conformance`; see README.md."""
