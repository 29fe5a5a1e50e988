"""JPEG files (ITU-T T.81) parsed without libjpeg: markers, entropy-coded data, integrity checks."""
