"""Single layers: inputs, outputs, and the gradients of Σ outputs ⊙ cotangents, to find where a fault lies."""

import torch
import torch.nn.functional as F

import hyena
import long_conv

B, D, L = 2, 6, 33


def config(**changes):
    return hyena.Config(**{**dict(vocabulary=12, padding=8, width=D, layers=1, inner=4 * D, length=40, features=5, filter_width=16,
                                  frequency=10.0, shift=0.05, tied=False), **changes})


def operator(**changes):
    c = config(**changes)
    return hyena.initialise(hyena.HyenaModel(c), 3).backbone.layers[0].mixer.double()


def projections(m, x):
    (postgate, pregate), v = m.projections(x)
    return {"gated": pregate * v, "postgate": postgate}


def without_filter(m):
    del m.filter_fn, m.out_proj
    return m


def long_conv_layer(bidirectional):
    c = long_conv.Config(3, 4, D, 1, L, 2**-6, bidirectional, False)
    return long_conv.initialise(long_conv.LongConvModel(c), 4).conv_layers[0].double()


# name: (module or None, shapes of the inputs, outputs from the module and the inputs)
CASES = {
    "filter-dna": (operator().filter_fn, {}, lambda m: {"k": m(L)[0]}),
    "filter-lm": (operator(features=33, frequency=14.0, shift=0.0).filter_fn, {}, lambda m: {"k": m(L)[0]}),
    "filter-order3": (operator(order=3).filter_fn, {}, lambda m: {"k": m(L)}),
    "projections": (without_filter(operator()), {"x": (B, L, D)}, projections),
    "conv": (None, {"gated": (B, D, L), "k": (D, L), "skip": (D,), "postgate": (B, D, L)},
             lambda m, gated, k, skip, postgate: {"y": postgate * hyena.long_conv(gated, k, skip)}),
    "conv-bidirectional": (None, {"u": (B, D, L), "k": (D, 2 * L), "skip": (D,)},
                           lambda m, u, k, skip: {"y": long_conv.circular(u, k, 2 * L) + skip[:, None] * u}),
    "operator": (operator(), {"x": (B, L, D)}, lambda m, x: {"y": m(x)}),
    "operator-order3": (operator(order=3), {"x": (B, L, D)}, lambda m, x: {"y": m(x)}),
    "mlp": (hyena.initialise(hyena.HyenaModel(config()), 5).backbone.layers[0].mlp.double(), {"x": (B, L, D)}, lambda m, x: {"y": m(x)}),
    "long-conv": (long_conv_layer(False), {"x": (B, L, D)}, lambda m, x: {"y": m(x)}),
    "long-conv-bidirectional": (long_conv_layer(True), {"x": (B, L, D)}, lambda m, x: {"y": m(x)}),
    "cross-entropy": (None, {"logits": (L, 12)}, lambda m, logits: {"loss": F.cross_entropy(logits, torch.arange(L) % 12)}),
}


def all_layers():
    """CASE/{parameters,buffers,inputs,outputs,cotangents,gradients}/NAME; gradients of parameters and of inputs."""
    tensors, generator = {}, torch.Generator().manual_seed(6)
    for case, (module, shapes, compute) in CASES.items():
        random = lambda shape: torch.randn(shape, generator=generator).float().double()
        inputs = {name: random(shape).requires_grad_() for name, shape in shapes.items()}
        parameters = dict(module.named_parameters()) if module else {}
        outputs = compute(module, **inputs)
        cotangents = {name: random(y.shape) for name, y in outputs.items()}
        sources = {**parameters, **inputs}
        found = torch.autograd.grad(sum((y * cotangents[name]).sum() for name, y in outputs.items()), list(sources.values()), allow_unused=True)
        found = {name: t for name, t in zip(sources, found) if t is not None}  # a filter alone has no use for its skip term
        table = {"parameters": parameters, "buffers": dict(module.named_buffers()) if module else {}, "inputs": inputs, "outputs": outputs,
                 "cotangents": cotangents, "gradients": found}
        tensors.update({f"{case}/{kind}/{name}": t for kind, group in table.items() for name, t in group.items()})
    return tensors
