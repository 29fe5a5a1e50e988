"""Tables of the papers beside the records of finished runs."""
