"""The DCT coefficients that JPEG files store: read, resample, augment."""
