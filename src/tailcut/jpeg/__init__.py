"""JPEG files (ITU-T T.81) without a decoder: their markers, their entropy-coded data, whether anything is amiss."""
