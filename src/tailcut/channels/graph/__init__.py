"""Dependency graph of channels: groups that can only be removed together, and channels that must stay."""
