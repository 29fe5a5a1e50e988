"""Lazy maps: feature maps that are not written to memory until their values are needed."""
