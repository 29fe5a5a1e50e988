"""The fused network: its programs, its decisions and its report."""
