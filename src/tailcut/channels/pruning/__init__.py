"""Removal of channels: plan, surgery, verification and the edit that files restore."""
