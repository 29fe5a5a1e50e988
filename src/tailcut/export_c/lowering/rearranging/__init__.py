"""Maps seen with more axes, permuted and seen as maps again: channel shuffle, pixel shuffle, patches.

`join` puts one node in the place of each in a graph, `moves` plans the copies in memory.
"""
