"""Vision transformer: Dosovitskiy et al., "An Image is Worth 16x16 Words" (2021), at the size CIFAR is trained with."""

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from tailcut.errors import ArgumentError
from tailcut.models.arguments import check_channels, check_dropout
from tailcut.structure import register_model

INITIAL_STD = 0.02  # of linear weights and of the position embedding, as in the original


def _example_shape(*, image_size: int, **_: object) -> tuple[int, ...]:
    return 1, 3, image_size, image_size


@register_model("vit", example_shape=_example_shape)
class VisionTransformer(nn.Module):
    """Patches, a class token, blocks of attention and MLP with layer norm before each, one linear layer.

    Input: (batch, 3, image_size, image_size). Output: (batch, num_classes), logits.

    With the defaults it is the ViT of Frequency Regularization's Table 2 (that of
    kentaroy47/vision-transformers-cifar10): 9,466,880 weights in matrices and 33,792 numbers of class and position
    embeddings are together the paper's 9,500,672; beside them there are 9,738 biases and 13,312 numbers of layer
    norm. 640.95 M MACs. The projections to queries, keys and values have no bias.

    Args:
        image_size: height and width of the images.
        patch_size: height and width of a patch.
        width: size of a token.
        depth: number of blocks.
        num_heads: of the attention; each has width / num_heads of a token.
        mlp_width: neurons of the hidden layer of each MLP.
        num_classes: how many classes there are.
        dropout: share of numbers that are dropped in training: of embedded tokens, of what an MLP's hidden layer
            gives, and of what each half of a block adds.
        patch_dropout: share of the patches that training leaves out, drawn anew for each image (Liu et al.,
            "PatchDropout", 2023); a step costs that much less. A trained network takes all patches.

    Raises:
        ArgumentError: a count is not from 1 to 65,536, `image_size` no multiple of `patch_size`, `width` none of
            `num_heads`, or `dropout` or `patch_dropout` not from 0 to 1.
    """

    def __init__(
        self,
        *,
        image_size: int = 32,
        patch_size: int = 4,
        width: int = 512,
        depth: int = 6,
        num_heads: int = 8,
        mlp_width: int = 512,
        num_classes: int = 10,
        dropout: float = 0.0,
        patch_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_channels("vit", image_size=image_size, patch_size=patch_size, width=width, depth=depth)
        check_channels("vit", num_heads=num_heads, mlp_width=mlp_width, num_classes=num_classes)
        check_dropout("vit", dropout=dropout, patch_dropout=patch_dropout)
        _check_divides("image_size", image_size, "patch_size", patch_size)
        _check_divides("width", width, "num_heads", num_heads)
        num_tokens = (image_size // patch_size) ** 2 + 1
        self.patch_dropout = patch_dropout
        self.patch_embedding = nn.Conv2d(3, width, patch_size, patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.empty(1, num_tokens, width))
        self.dropout = nn.Dropout(dropout)
        self.blocks = nn.Sequential(*(Block(width, num_heads, mlp_width, dropout) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, num_classes)
        nn.init.normal_(self.position, std=INITIAL_STD)
        nn.init.trunc_normal_(self.patch_embedding.weight, std=(3 * patch_size**2) ** -0.5)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=INITIAL_STD)
        for name, parameter in self.named_parameters():
            if name.endswith(".bias"):
                nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (batch, num_classes) of images (batch, 3, image_size, image_size)."""
        patches = self.patch_embedding(x).flatten(2).transpose(1, 2)  # (batch, patches, width)
        first = self.class_token.expand(x.shape[0], -1, -1)
        tokens = torch.cat([first, patches], dim=1) + self.position
        if self.training and self.patch_dropout > 0:
            tokens = without_patches(tokens, self.patch_dropout)
        tokens = self.dropout(tokens)
        tokens = self.norm(self.blocks(tokens))
        logits: Tensor = self.head(tokens[:, 0])
        return logits


def without_patches(tokens: Tensor, share: float) -> Tensor:
    """Tokens (batch, 1 + kept, width): the first, and as many of the others as `share` leaves, at least one.

    Which are kept is drawn for each image; they stay in their order.
    """
    batch, num_tokens, width = tokens.shape
    kept = max(round((num_tokens - 1) * (1 - share)), 1)
    drawn = torch.rand(batch, num_tokens - 1, device=tokens.device).topk(kept, dim=1).indices.sort(dim=1).values
    places = torch.cat([drawn.new_zeros(batch, 1), drawn + 1], dim=1)
    return tokens.gather(1, places.unsqueeze(2).expand(-1, -1, width))


class Block(nn.Module):
    """Attention and MLP, each with layer norm before it and the identity beside it. Shape unchanged."""

    def __init__(self, width: int, num_heads: int, mlp_width: int, dropout: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads)
        self.dropout = nn.Dropout(dropout)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(
            nn.Linear(width, mlp_width),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(mlp_width, width),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (batch, tokens, width) to the same shape."""
        x = x + self.dropout(self.attention(self.norm1(x)))
        y: Tensor = x + self.mlp(self.norm2(x))
        return y


class Attention(nn.Module):
    """Multi-head self-attention; `qkv` gives queries, keys and values of all heads in this order."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.projection = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens (batch, tokens, width) to the same shape."""
        qkv = self.qkv(x).unflatten(-1, (3, self.num_heads, -1))
        queries, keys, values = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each (batch, heads, tokens, size)
        mixed = scaled_dot_product_attention(queries, keys, values)
        y: Tensor = self.projection(mixed.transpose(1, 2).flatten(2))
        return y


def _check_divides(name: str, number: int, part_name: str, part: int) -> None:
    if number % part != 0:
        raise ArgumentError(f"vit: {name} must be a multiple of {part_name}, got {name}={number}, {part_name}={part}")
