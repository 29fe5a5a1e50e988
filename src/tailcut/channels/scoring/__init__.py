"""Channel scores: from feature maps in the frequency domain, and the usual baselines."""
