"""Recipes: their sections as typed models, TOML files, and errors that name the key."""
