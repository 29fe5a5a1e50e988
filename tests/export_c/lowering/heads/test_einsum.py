"""Sums of products by letters as products of matrices."""

import pytest
import torch

from tailcut.export_c.lowering.heads import einsum


@pytest.mark.parametrize(
    "equation", ["bhid, bhjd -> bhij", "bnhd,bmhd->bhnm", "bhnm,bmhd->bnhd", "ij,kj->ki", "id,dj->ij"]
)
def test_matrices_give_the_same(equation: str) -> None:
    orders = einsum.orders_of(equation)
    assert orders is not None
    given = equation.replace(" ", "").partition("->")[0].split(",")
    sizes = {letter: 2 + place for place, letter in enumerate(sorted(set("".join(given))))}
    factors = [torch.rand([sizes[letter] for letter in one]) for one in given]
    matrices = [
        factor.permute([own.index(letter) for letter in wanted])
        for factor, own, wanted in zip(factors, given, orders[:2], strict=True)
    ]
    found = (matrices[0] @ matrices[1]).permute([orders[2].index(letter) for letter in orders[3]])
    torch.testing.assert_close(found, torch.einsum(equation, *factors))


@pytest.mark.parametrize(
    "equation", ["bnd,bnd->bn", "bnd,bmd->b", "...id,...jd->...ij", "ii,ij->ij", "ab,cd->ac", "ij,jk"]
)
def test_others_have_none(equation: str) -> None:
    assert einsum.orders_of(equation) is None
