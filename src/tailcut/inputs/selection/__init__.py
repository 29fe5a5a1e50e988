"""Selections of frequency channels: tables, patterns and the learned gate."""
