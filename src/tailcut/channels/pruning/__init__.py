"""Channel removal: plan, surgery, verification and the edit that files restore."""
