"""The classifier of the long convolutions (explicit kernels): B batch, L length, D width. Names are the published ones."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Config:
    inputs: int
    classes: int
    width: int
    layers: int
    length: int
    squash: float
    bidirectional: bool
    prenorm: bool


def squash(k, threshold):
    """Taps below the threshold are zero, the others move towards zero by it."""
    return F.relu(k.abs() - threshold) * k.sign()


def circular(u, k, n):
    """Convolution of period n. A kernel of n = 2L taps looks both ways: tap j for the past at j, tap n − j for the future at j."""
    return torch.fft.irfft(torch.fft.rfft(u, n=n) * torch.fft.rfft(k, n=n), n=n)[..., : u.shape[-1]]


class LongConv(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.D = nn.Parameter(torch.randn(1, c.width))
        self.kernel = nn.Parameter(0.002 * torch.randn(1, c.width, c.length * (2 if c.bidirectional else 1)))
        self.output_linear = nn.Sequential(nn.Linear(c.width, 2 * c.width), nn.GLU(dim=-1))

    def forward(self, x):
        u = x.transpose(1, 2)  # (B, D, L)
        y = circular(u, squash(self.kernel[0], self.c.squash), 2 * self.c.length) + self.D[0][:, None] * u  # (B, D, L)
        return self.output_linear(F.gelu(y).transpose(1, 2))  # (B, L, D); the exact GELU


class LongConvModel(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.encoder = nn.Linear(c.inputs, c.width)
        self.conv_layers = nn.ModuleList([LongConv(c) for _ in range(c.layers)])
        self.norms = nn.ModuleList([nn.LayerNorm(c.width, eps=1e-5) for _ in range(c.layers)])
        self.decoder = nn.Linear(c.width, c.classes)

    def blocks(self, inputs):
        x, blocks = self.encoder(inputs), []  # (B, L, D)
        for layer, norm in zip(self.conv_layers, self.norms):
            x = x + layer(norm(x)) if self.c.prenorm else norm(x + layer(x))  # (B, L, D)
            blocks.append(x)
        return blocks

    def forward(self, inputs):
        return self.decoder(self.blocks(inputs)[-1].mean(dim=1))  # (B, classes)

    def loss(self, batch):
        inputs, labels = batch
        return F.cross_entropy(self(inputs.to(self.encoder.weight.dtype)), labels)


def initialise(model, seed):
    """Values under which every part matters; about a third of the taps lies below the threshold."""
    generator = torch.Generator().manual_seed(seed)
    for name, p in model.named_parameters():
        r = torch.randn(p.shape, generator=generator)
        if name.endswith("kernel"):
            r = 0.03 * r
            r[..., model.c.length :][..., :1] = 0  # tap L meets no sample: the noise of its gradient would decide its AdamW steps
        elif name.endswith(".D"):
            r = 0.7 * r
        elif name.endswith("bias"):
            r = 0.2 * r
        elif p.ndim == 1:
            r = 1 + 0.2 * r
        else:
            r = r / math.sqrt(p.shape[-1])
        p.data.copy_(r)
    return model


def groups(model, rate, decay, kernel_rate):
    linear = {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    names = [name for name, _ in model.named_parameters()]
    kernels = [name for name in names if name.endswith("kernel")]
    return {
        "matrices": dict(lr=rate, weight_decay=decay, names=[name for name in names if name in linear]),
        "others": dict(lr=rate, weight_decay=0.0, names=[name for name in names if name not in linear and name not in kernels]),
        "kernels": dict(lr=kernel_rate, weight_decay=0.0, names=kernels),
    }
