"""Faster and Mask R-CNN on frequency channels."""
