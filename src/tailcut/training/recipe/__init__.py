"""Recipes: their sections as typed models, TOML files, and errors that name the key."""

from tailcut.errors import MissingExtraError

try:
    import pydantic as pydantic
except ImportError as error:
    raise MissingExtraError("reading a recipe", "pydantic", "train") from error
