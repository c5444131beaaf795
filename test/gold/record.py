"""What a model does in float64, and how far PyTorch's own float32 is from it."""

import copy

import torch

def distance(a, b):
    """Relative L2 distance from b."""
    return ((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-300)).item()


def gradients(model, batch):
    model.zero_grad()
    loss = model.loss(batch)
    loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters()}


def train(model, batches, table, betas, schedule, clip):
    """One AdamW step a batch. Returns the losses before each step and the norms of the gradients before they are clipped.

    Clipping multiplies all gradients by clip / (norm + 1e-6) where that is below 1.
    """
    parameters = dict(model.named_parameters())
    rates = [g["lr"] for g in table.values()]
    optimiser = torch.optim.AdamW(
        [{**g, "params": [parameters[name] for name in g["names"]]} for g in table.values()], betas=betas, eps=1e-8)
    losses, norms = [], []
    for batch, factor in zip(batches, schedule):
        for g, rate in zip(optimiser.param_groups, rates):
            g["lr"] = factor * rate
        optimiser.zero_grad()
        loss = model.loss(batch)
        loss.backward()
        losses.append(loss.item())
        norms.append(torch.nn.utils.clip_grad_norm_(list(parameters.values()), clip).item())
        optimiser.step()
    return losses, norms, optimiser


def run(model, batches, table, betas, schedule, clip):
    """Everything about one model and its batches, in the model's number format."""
    model = copy.deepcopy(model)
    loss, grads = gradients(model, batches[0])
    losses, norms, optimiser = train(model, batches, table, betas, schedule, clip)
    with torch.no_grad():
        after = model.loss(batches[0]).item()
    return {
        "loss": loss, "gradients": grads, "losses": losses, "norms": norms, "loss_after": after,
        "final": {name: p.detach() for name, p in model.named_parameters()}, "optimiser": optimiser, "model": model,
    }


def distances(single, double, rename):
    """float32 against float64: what a faithful float32 implementation can be asked for."""
    return {
        "losses": max(abs(a - b) / b for a, b in zip(single["losses"], double["losses"])),
        "gradients": {rename(name): distance(g, double["gradients"][name]) for name, g in single["gradients"].items()},
        "final": {rename(name): distance(p, double["final"][name]) for name, p in single["final"].items()},
    }


def generate(model, prompt, count):
    """Greedy: a full forward a token. Returns the tokens, the logits that chose each, and the least lead of a winner."""
    ids, rows = torch.tensor([prompt]), []
    with torch.no_grad():
        for _ in range(count):
            rows.append(model(ids)[0, -1])  # (V)
            ids = torch.cat([ids, rows[-1].argmax()[None, None]], 1)
    logits = torch.stack(rows)  # (count, V)
    best = logits.topk(2).values
    return ids[0, len(prompt) :].tolist(), logits, (best[:, 0] - best[:, 1]).min().item()
