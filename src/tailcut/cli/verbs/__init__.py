"""Verbs of the command line, one module each: its words, its call, its report."""
