"""DCT coefficients stored in JPEG files: reading, resampling, augmentation."""
