"""Transforms from images to frequency channels: block DCT, channel statistics, compiled loops."""
