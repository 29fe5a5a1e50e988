"""Attention found in a traced network: what its heads are, whatever it is written with.

`views` tells where the numbers of reshaped and permuted tensors are from, `einsum` writes sums of products as matrices,
`scores` goes from a softmax back to queries and keys, `join` puts one node in the place of all.
"""
