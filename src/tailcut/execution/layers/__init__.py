"""Truncated layers in a fused network: factors, strategies and the layer itself."""
