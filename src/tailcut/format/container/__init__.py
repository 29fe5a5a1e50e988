"""Bytes of a `.tailcut` file: header, blocks of levels, streams of numbers, checksums."""
