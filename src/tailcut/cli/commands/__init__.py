"""The commands, one module each: its arguments, its call, its report."""
