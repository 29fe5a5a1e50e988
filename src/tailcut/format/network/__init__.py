"""Networks of files: built without memory, listed, checked against their record, and put back after an error."""
