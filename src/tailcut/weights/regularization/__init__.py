"""`regularize`, `to_dense` and the same for batch norm: what they change, report, and record as an edit in files."""
