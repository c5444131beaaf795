"""Checks of the Python itself, before anything is written: each raises an AssertionError when it fails."""

import copy

import torch
import torch.nn.functional as F

import hyena
import long_conv
from record import distance, train


def central_differences(model, batch, grads, seed, each=3, h=1e-5):
    """The largest difference between a derivative and its central difference, against the gradient's root mean square."""
    generator, worst = torch.Generator().manual_seed(seed), 0.0
    for name, p in model.named_parameters():
        flat, grad = p.data.view(-1), grads[name].flatten()
        strongest = grad.abs().argmax().item()
        for i in {strongest, *torch.randint(flat.numel(), (each,), generator=generator).tolist()}:
            kept, losses = flat[i].item(), []
            with torch.no_grad():
                for step in (h, -h):
                    flat[i] = kept + step
                    losses.append(model.loss(batch).item())
            flat[i] = kept
            error = abs((losses[0] - losses[1]) / (2 * h) - grad[i].item())
            worst = max(worst, error / (grad.abs().max().item() + 1e-12))
    assert worst < 1e-5, worst
    return worst


def direct_convolutions(seed):
    """The convolutions against their sums, written out."""
    g = torch.Generator().manual_seed(seed)
    B, D, L = 2, 3, 11
    u, k, two, skip = (torch.randn(shape, generator=g).double() for shape in ((B, D, L), (D, L), (D, 2 * L), (D,)))
    causal, both = torch.zeros_like(u), torch.zeros_like(u)
    for t in range(L):
        for s in range(L):
            if s <= t:
                causal[..., t] += k[:, t - s] * u[..., s]
            both[..., t] += two[:, t - s if s <= t else 2 * L - (s - t)] * u[..., s]
    assert distance(hyena.long_conv(u, k, skip), causal + skip[:, None] * u) < 1e-13
    assert distance(long_conv.circular(u, two, 2 * L), both) < 1e-13
    assert distance(long_conv.circular(u, k, 2 * L), causal) < 1e-13


def swap_gates(m):
    for layer in m.backbone.layers:
        D = m.c.width
        for p in (layer.mixer.in_proj.weight, layer.mixer.in_proj.bias, layer.mixer.short_filter.weight, layer.mixer.short_filter.bias):
            p.data[: 2 * D] = torch.cat([p.data[D : 2 * D], p.data[:D]])


def each_mixer(change):
    def mutant(m):
        for layer in m.backbone.layers:
            change(layer.mixer)
    return mutant


def half_of_z(mixer):
    z = mixer.filter_fn.pos_emb.z.data
    z[..., (z.shape[-1] + 1) // 2 :] *= -1


def other_shift(mixer):
    mixer.filter_fn.modulation.shift = 0.05 - mixer.filter_fn.modulation.shift


def centred(mixer):
    mixer.short_filter.padding = (1,)


def one_frequency(mixer):
    freq = mixer.filter_fn.implicit_filter[1].freq.data
    freq[:] = freq.mean()


MUTANTS = {
    "gates swapped": swap_gates,
    "no bias of the in-projection": each_mixer(lambda mixer: mixer.in_proj.bias.data.zero_()),
    "no skip term": each_mixer(lambda mixer: mixer.filter_fn.bias.data.zero_()),
    "plus sin in z": each_mixer(half_of_z),
    "the other shift": each_mixer(other_shift),
    "centred short filter": each_mixer(centred),
    "one frequency for all": each_mixer(one_frequency),
    "exact GELU": lambda m: [setattr(layer.mlp, "forward", lambda x, mlp=layer.mlp: mlp.fc2(F.gelu(mlp.fc1(x)))) for layer in m.backbone.layers],
}


def mutants(model, ids):
    """How far each classical mistake moves the logits: the gold values tell all of them from the truth."""
    with torch.no_grad():
        truth, found = model(ids), {}
        for name, change in MUTANTS.items():
            wrong = copy.deepcopy(model)
            change(wrong)
            found[name] = distance(wrong(ids), truth)
            assert found[name] > 1e-4, (name, found[name])
    return found


def optimiser_mutants(model, batches, table, betas, schedule, clip, truth):
    """How far mistakes of the optimiser move the losses."""
    def changed(key, value, *names):
        return {name: {**g, key: value} if name in names else g for name, g in table.items()}
    rate, decay = table["matrices"]["lr"], table["matrices"]["weight_decay"]
    own = [name for name in table if name not in ("matrices", "others")]
    cases = {
        "no decay": (changed("weight_decay", 0.0, "matrices"), betas, clip),
        "decay for all": (changed("weight_decay", decay, *table), betas, clip),
        "one rate for all": (changed("lr", rate, *own), betas, clip),
        "other betas": (table, (betas[0], 0.95), clip),
        "no clipping": (table, betas, 1e9),
    }
    if min(truth["norms"]) < clip:
        cases["clipped further"] = (table, betas, min(truth["norms"]))
    found = {}
    for name, (groups, b, limit) in cases.items():
        losses, _, _ = train(copy.deepcopy(model), batches, groups, b, schedule, limit)
        found[name] = max(abs(x - y) / y for x, y in zip(losses, truth["losses"]))
        assert found[name] > 2e-4, (name, found[name])
    return found
