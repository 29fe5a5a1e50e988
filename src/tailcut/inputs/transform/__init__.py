"""Images to frequency channels: the block DCT, its statistics and compiled loops."""
