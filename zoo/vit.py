"""Vision Transformer: Dosovitskiy et al., "An Image is Worth 16x16 Words: Transformers for Image Recognition at
Scale", ICLR 2021 (arXiv 2010.11929).

What the micro network keeps: patches as tokens, a class token, learned position embeddings, a plain pre-norm
transformer encoder, the class token's output for the decision. What it shrinks: patches of 8x8 pixels (64 tokens for an
image), 7 layers of 96 channels.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Attention(nn.Module):
    """Multi-head self-attention over tokens ``(N, T, dim)``; the output has the same shape."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, dim = x.shape
        # (3, N, heads, T, dim / heads)
        q, k, v = self.qkv(x).view(n, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4)
        # Written out: on a CPU, training takes half the time that it takes with F.scaled_dot_product_attention.
        weights = (q @ k.transpose(-2, -1) * (dim // self.heads) ** -0.5).softmax(dim=-1)
        x = weights.to(v.dtype) @ v
        return self.out(x.transpose(1, 2).reshape(n, tokens, dim))


class Layer(nn.Module):
    """One layer of the encoder: attention between tokens, then an MLP on each, both with a shortcut."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """The micro Vision Transformer: 0.8 M parameters, 57 M multiply-adds at 64x64.

    Parameters
    ----------
    num_classes : int
        Length of the output.
    dim, depth, heads : int
        Channels of a token, number of layers, attention heads in each.
    patch : int
        Side of a patch in pixels.
    grid : int
        Patches along a side, for which there are position embeddings. For images of another size
        they are interpolated.

    Input ``(N, 3, H, W)`` with H = W = ``patch * grid`` = 64, output logits ``(N, num_classes)``.
    """

    def __init__(
        self, num_classes: int = 200, dim: int = 96, depth: int = 7, heads: int = 3, patch: int = 8, grid: int = 8
    ) -> None:
        super().__init__()
        self.patchify = nn.Conv2d(3, dim, kernel_size=patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.class_position = nn.Parameter(torch.zeros(1, 1, dim))
        self.positions = nn.Parameter(torch.zeros(1, dim, grid, grid))
        self.layers = nn.Sequential(*[Layer(dim, heads) for _ in range(depth)])
        self.norm = nn.LayerNorm(dim)
        self.classifier = nn.Linear(dim, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.class_token, std=0.02)
        nn.init.normal_(self.class_position, std=0.02)
        nn.init.normal_(self.positions, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patchify(x)  # (N, dim, H / patch, W / patch)
        positions = self.positions
        if x.shape[2:] != positions.shape[2:]:
            positions = F.interpolate(positions, x.shape[2:], mode="bicubic", align_corners=False)
        tokens = (x + positions).flatten(2).transpose(1, 2)  # (N, T, dim)
        first = (self.class_token + self.class_position).expand(len(x), -1, -1)
        tokens = self.layers(torch.cat([first.to(tokens.dtype), tokens], dim=1))
        return self.classifier(self.norm(tokens[:, 0]))
