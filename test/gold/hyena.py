"""The Hyena language models, for reading and for reference: HyenaDNA and Hyena as published, without dropout.

Letters: B batch, L length of the input, M longest length (`length`), D width, N order of the operator, V padded vocabulary,
E features of a position, F width of the filter's network. Names of fields are those of the published weights.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass(frozen=True)
class Config:
    vocabulary: int
    padding: int  # the vocabulary is padded to a multiple of it
    width: int
    layers: int
    inner: int  # width inside the MLP
    length: int  # M: the table of positions has as many rows
    features: int  # E: 1 + 2 · bands
    filter_width: int
    frequency: float  # first value of the sine's frequencies
    shift: float  # added to the decay: 0.05 in the published HyenaDNA, 0 in Hyena and in both training codes
    tied: bool  # the head is the embedding's matrix
    order: int = 2

    @property
    def padded(self):
        return math.ceil(self.vocabulary / self.padding) * self.padding


def long_conv(u, k, skip):
    """Causal convolution of any length, and the skip term: y[t] = Σ_{s ≤ t} k[t − s] u[s] + skip · u[t]."""
    L = u.shape[-1]
    spectrum = torch.fft.rfft(u, n=2 * L) * torch.fft.rfft(k, n=2 * L)  # (B, D, L + 1)
    return torch.fft.irfft(spectrum, n=2 * L)[..., :L] + skip[:, None] * u  # (B, D, L)


class Sin(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.freq = nn.Parameter(c.frequency * torch.ones(1, c.filter_width))

    def forward(self, x):
        return torch.sin(self.freq * x)


class Positions(nn.Module):
    """z is trainable: time from 0 to 1, then cos and minus sin of 2π · band · position / M. Time for the decay is fixed."""

    def __init__(self, c):
        super().__init__()
        bands = (c.features - 1) // 2
        t = torch.linspace(0, 1, c.length)[None, :, None]  # (1, M, 1)
        angle = 2 * math.pi * torch.arange(c.length)[:, None] / c.length * torch.linspace(1e-4, bands - 1, bands)  # (M, bands)
        self.z = nn.Parameter(torch.cat([t, angle.cos()[None], -angle.sin()[None]], -1))  # (1, M, E)
        self.register_buffer("t", t)


class Modulation(nn.Module):
    """Channels forget at different speeds: the first falls to 1 % at 1.5 M, the last at 0.3 M."""

    def __init__(self, c, channels):
        super().__init__()
        self.shift = c.shift
        self.register_buffer("deltas", torch.linspace(math.log(0.01) / 1.5, math.log(0.01) / 0.3, channels)[None, None])

    def forward(self, t, h):
        return h * (torch.exp(-t * self.deltas.abs()) + self.shift)  # (1, L, D)


class HyenaFilter(nn.Module):
    """The kernel as a function of the position. One Sin, so one vector of frequencies, stands behind all three layers."""

    def __init__(self, c):
        super().__init__()
        channels, sin = c.width * (c.order - 1), Sin(c)
        self.channels = c.width
        self.bias = nn.Parameter(torch.randn(channels))  # the skip term D of each convolution
        self.pos_emb = Positions(c)
        self.implicit_filter = nn.Sequential(
            nn.Linear(c.features, c.filter_width), sin,
            nn.Linear(c.filter_width, c.filter_width), sin,
            nn.Linear(c.filter_width, c.filter_width), sin,
            nn.Linear(c.filter_width, channels, bias=False),
        )
        self.modulation = Modulation(c, channels)

    def forward(self, L):
        """Kernels in the order of their use. The kernel for L < M is the first L taps of that for M."""
        h = self.implicit_filter(self.pos_emb.z[:, :L])  # (1, L, (N − 1) D)
        h = self.modulation(self.pos_emb.t[:, :L], h)  # (1, L, (N − 1) D)
        return h[0].T.reshape(-1, self.channels, L)  # (N − 1, D, L)


class HyenaOperator(nn.Module):
    def __init__(self, c):
        super().__init__()
        inner = (c.order + 1) * c.width
        self.c = c
        self.in_proj = nn.Linear(c.width, inner)
        self.out_proj = nn.Linear(c.width, c.width)
        self.short_filter = nn.Conv1d(inner, inner, 3, padding=2, groups=inner)  # cut to L, so causal
        self.filter_fn = HyenaFilter(c)

    def projections(self, x):
        """The gates and the value. The last gate comes before the first convolution, the first one after the last."""
        p = self.in_proj(x).transpose(1, 2)  # (B, (N + 1) D, L)
        p = self.short_filter(p)[..., : x.shape[1]]  # (B, (N + 1) D, L)
        *gates, v = p.split(self.c.width, dim=1)  # N + 1 times (B, D, L)
        return gates, v

    def forward(self, x):
        (postgate, *pregates), v = self.projections(x)
        skips = self.filter_fn.bias.reshape(-1, self.c.width)  # (N − 1, D)
        for gate, k, skip in zip(reversed(pregates), self.filter_fn(x.shape[1]), skips):
            v = long_conv(gate * v, k, skip)  # (B, D, L)
        return self.out_proj((postgate * v).transpose(1, 2))  # (B, L, D)


class Mlp(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.fc1 = nn.Linear(c.width, c.inner)
        self.fc2 = nn.Linear(c.inner, c.width)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x), approximate="tanh"))  # (B, L, D)


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.mixer = HyenaOperator(c)
        self.norm1 = nn.LayerNorm(c.width, eps=1e-5)
        self.mlp = Mlp(c)
        self.norm2 = nn.LayerNorm(c.width, eps=1e-5)

    def forward(self, x):
        x = x + self.mixer(self.norm1(x))  # (B, L, D)
        return x + self.mlp(self.norm2(x))  # (B, L, D)


class Backbone(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.embeddings = nn.ModuleDict({"word_embeddings": nn.Embedding(c.padded, c.width)})
        self.layers = nn.ModuleList([Block(c) for _ in range(c.layers)])
        self.ln_f = nn.LayerNorm(c.width, eps=1e-5)

    def forward(self, ids):
        """Also returns what each block returned."""
        x, blocks = self.embeddings["word_embeddings"](ids), []  # (B, L, D)
        for layer in self.layers:
            x = layer(x)
            blocks.append(x)
        return self.ln_f(x), blocks  # (B, L, D)


class HyenaModel(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.c = c
        self.backbone = Backbone(c)
        self.lm_head = nn.Linear(c.width, c.padded, bias=False)
        if c.tied:
            self.lm_head.weight = self.backbone.embeddings["word_embeddings"].weight

    def forward(self, ids):
        return self.lm_head(self.backbone(ids)[0])  # (B, L, V)

    def loss(self, batch):
        """batch: (B, L + 1) ids; each id but the last predicts the next."""
        return F.cross_entropy(self(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten())


def dna_config(width, layers, length):
    """As published: 12 tokens padded to 16. Its weights have a head of their own."""
    return Config(12, 8, width, layers, 4 * width, length, 5, 64, 10.0, 0.05, tied=False)


DNA_SIZES = {
    "tiny-1k": dna_config(128, 2, 1026),
    "tiny-1k-d256": dna_config(256, 2, 1026),
    "tiny-16k-d128": dna_config(128, 2, 16386),
    "small-32k": dna_config(256, 4, 32770),
    "medium-160k": dna_config(256, 8, 160002),
    "medium-450k": dna_config(256, 8, 450002),
    "large-1m": dna_config(256, 8, 1000002),
}
LM_SMALL = Config(50257, 8, 864, 18, 1728, 4096, 33, 64, 14.0, 0.0, tied=True)


def initialise(model, seed):
    """Values under which every part of the model matters: the published ones (0.02, no biases) would hide a lost gate or bias."""
    generator = torch.Generator().manual_seed(seed)
    c = model.c
    for name, p in model.named_parameters():
        r = torch.randn(p.shape, generator=generator)
        if name.endswith("pos_emb.z"):
            continue
        elif name.endswith("freq"):
            r = c.frequency * (1 + 0.1 * r)
        elif name.endswith("filter_fn.bias"):
            r = 0.7 * r
        elif name.endswith("implicit_filter.6.weight"):
            r = 0.5 * r / math.sqrt(c.filter_width)
        elif "implicit_filter" in name:
            r = 0.2 * r / math.sqrt(p.shape[-1]) if p.ndim == 2 else 0.05 * r
        elif name.endswith("short_filter.weight"):
            r = 0.6 * r
        elif name.endswith("bias"):
            r = 0.2 * r
        elif p.ndim == 1:  # scales of the norms
            r = 1 + 0.2 * r
        else:
            r = r / math.sqrt(p.shape[-1])
        if "word_embeddings" in name or "lm_head" in name:
            r[c.vocabulary :] *= 0.1  # rows of padding seldom win
        p.data.copy_(r)
    return model


def stored(model):
    """The state as safetensors keeps it: one name for each tensor, the first of its aliases."""
    seen, state = set(), {}
    for name, t in model.state_dict().items():
        if t.data_ptr() not in seen:
            state[name] = t
        seen.add(t.data_ptr())
    return state


def hf(name):
    """A name in the `-hf` files of HyenaDNA."""
    return name.replace("backbone.", "hyena.backbone.")


def lightning(name, wrapped):
    """A name in the Lightning checkpoints of HyenaDNA; `wrapped` where blocks were recomputed in training (the 1M model)."""
    if wrapped:
        name = name.replace(".mixer.", ".mixer.layer.").replace(".mlp.", ".mlp.layer.")
    return "model." + name


def groups(model, rate, decay, filter_rate, position_rate):
    """Decay for matrices of linear layers alone. The filter's network and the positions have rates of their own and no decay."""
    linear = {f"{name}.weight" for name, m in model.named_modules() if isinstance(m, nn.Linear)}
    table = {
        "matrices": dict(lr=rate, weight_decay=decay, names=[]),
        "others": dict(lr=rate, weight_decay=0.0, names=[]),
        "filter": dict(lr=filter_rate, weight_decay=0.0, names=[]),
        "positions": dict(lr=position_rate, weight_decay=0.0, names=[]),
    }
    for name, _ in model.named_parameters():
        key = "positions" if name.endswith("pos_emb.z") else "filter" if "implicit_filter" in name else "matrices" if name in linear else "others"
        table[key]["names"].append(name)
    return table
