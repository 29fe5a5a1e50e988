"""The dependency graph of channels: channels that can only go together, and those that must stay."""
