"""Writes every file in files/ anew: python3 write.py (about a minute on one core; any PyTorch from 1.13 on)."""

import dataclasses
import math
import sys
import types
import typing

sys.dont_write_bytecode = True

import torch

import check
import hyena
import layers
import long_conv
from files import FOLDER, write_json, write_rounded, write_safetensors
from record import distance, distances, generate, run

STEPS = 10


def warm_up_and_cosine(step, warm_up=3, floor=0.1):
    if step < warm_up:
        return (step + 1) / warm_up
    return floor + (1 - floor) * (1 + math.cos(math.pi * (step - warm_up) / (STEPS - warm_up))) / 2


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    config: typing.Any
    batch: int
    length: int
    rates: dict
    betas: tuple
    schedule: list
    clip: float
    prompt: int = 0
    rename: typing.Callable = lambda name: name
    tokens: tuple = (0, 0)  # ids that the text holds: from, to


CASES = [
    Case("dna", hyena.Config(12, 8, 24, 2, 96, 100, 5, 64, 10.0, 0.05, tied=False), 2, 97,
         dict(rate=1e-3, decay=0.5, filter_rate=2e-4, position_rate=1e-4), (0.9, 0.999), [1.0] * STEPS, 1.0, 13, hyena.hf, (7, 12)),
    Case("lm", hyena.Config(61, 8, 32, 2, 64, 128, 33, 32, 14.0, 0.0, tied=True), 3, 100,
         dict(rate=3e-3, decay=0.4, filter_rate=1e-3, position_rate=1e-4), (0.9, 0.98), [warm_up_and_cosine(i) for i in range(STEPS)],
         1.0, 17, tokens=(0, 61)),
    Case("long-conv", long_conv.Config(3, 10, 16, 2, 48, 2**-6, True, False), 3, 48,
         dict(rate=1e-2, decay=0.2, kernel_rate=1e-3), (0.9, 0.999), [1.0] * STEPS, 1.6),
    Case("long-conv-causal", long_conv.Config(1, 5, 20, 2, 51, 2**-6, False, True), 2, 51,
         dict(rate=1e-2, decay=0.2, kernel_rate=1e-3), (0.9, 0.98), [1.0] * STEPS, 1.6),
]


def write_model(case, seed):
    c, module = case.config, hyena if case.prompt else long_conv
    model = module.initialise((hyena.HyenaModel if case.prompt else long_conv.LongConvModel)(c), seed)
    table = module.groups(model, **case.rates)
    g = torch.Generator().manual_seed(seed + 1)
    if case.prompt:
        batches = torch.randint(*case.tokens, (STEPS, case.batch, case.length + 1), generator=g)
        inputs = batches[0, :, :-1]
    else:
        data = torch.randn((STEPS, case.batch, case.length, c.inputs), generator=g)
        batches = list(zip(data, torch.randint(c.classes, (STEPS, case.batch), generator=g)))
        inputs = data[0].double()

    single = run(model, batches, table, case.betas, case.schedule, case.clip)
    single_logits = model(inputs if case.prompt else inputs.float())
    model = model.double()
    double = run(model, batches, table, case.betas, case.schedule, case.clip)

    outputs = {"logits": model(inputs)}
    blocks = model.backbone(inputs)[1] if case.prompt else model.blocks(inputs)
    outputs.update({f"blocks.{i}": x for i, x in enumerate(blocks)})
    facts = {
        "config": dataclasses.asdict(c), "torch": torch.__version__, "loss": double["loss"],
        "optimiser": {"betas": case.betas, "eps": 1e-8, "clip": case.clip, "schedule": case.schedule,
                      "groups": {k: {**t, "names": [case.rename(name) for name in t["names"]]} for k, t in table.items()}},
        "losses": double["losses"], "norms": double["norms"], "loss_after": double["loss_after"],
        "float32": {"logits": distance(single_logits, outputs["logits"]), **distances(single, double, case.rename)},
        "differences": check.central_differences(model, batches[0], double["gradients"], seed),
        "optimiser_mutants": check.optimiser_mutants(model, batches, table, case.betas, case.schedule, case.clip, double),
    }
    if case.prompt:
        facts["ids"] = batches.tolist()
        facts["mutants"] = check.mutants(model, inputs)
        outputs["hidden"] = model.backbone(inputs)[0]
        outputs.update({f"filters.{i}": layer.mixer.filter_fn(case.length)[0] for i, layer in enumerate(model.backbone.layers)})
        for attempt in range(1000):  # a prompt whose every winner leads clearly and is no padding
            prompt = torch.randint(*case.tokens, (case.prompt,), generator=g).tolist()
            tokens, outputs["generation"], lead = generate(model, prompt, 20)
            if lead > 0.02 and max(tokens) < c.vocabulary and len(set(tokens)) > 3:
                break
        else:
            raise AssertionError("no prompt is clear")
        facts["generation"] = {"prompt": prompt, "tokens": tokens, "lead": lead}
    else:
        facts["labels"] = [labels.tolist() for _, labels in batches]
        outputs["inputs"] = data
    rename = lambda tensors: {case.rename(name): t for name, t in tensors.items()}
    state = hyena.stored(model)
    write_rounded(f"{case.name}.safetensors", rename(state))
    write_rounded(f"{case.name}.gradients.safetensors", rename(double["gradients"]))
    write_rounded(f"{case.name}.final.safetensors", rename(double["final"]))
    write_rounded(f"{case.name}.outputs.safetensors", outputs)
    write_json(f"{case.name}.json", facts)
    print(case.name, *(f"{key}={facts[key]}" for key in ("losses", "norms", "differences", "optimiser_mutants")), facts.get("mutants"), facts.get("generation"), sep="\n  ")
    for key, value in facts["float32"].items():
        print("  float32", key, max(value.items(), key=lambda x: x[1]) if isinstance(value, dict) else value)
    return model, single


def foreign(module, name):
    """A class that the reader of a checkpoint can't have: real checkpoints keep their settings in objects of OmegaConf."""
    kind = type(name, (), {"__module__": module})
    for i in range(1, module.count(".") + 2):
        sys.modules.setdefault(".".join(module.split(".")[:i]), types.ModuleType(".".join(module.split(".")[:i])))
    setattr(sys.modules[module], name, kind)
    return kind


def write_checkpoints(model, optimiser):
    """The weights of `dna` in the layouts in which they are found: Lightning's, with and without recomputed blocks; in shards; flat."""
    state = model.float().state_dict()  # with all aliases, as Lightning keeps them
    settings, node = foreign("omegaconf.dictconfig", "DictConfig")(), foreign("omegaconf.nodes", "AnyNode")()
    node.__dict__ = {"_val": model.c.width, "_parent": settings}
    settings.__dict__ = {"_content": {"d_model": node}, "_metadata": {"ref_type": typing.Any, "object_type": dict}}
    moments = optimiser.state_dict()
    moments["state"] = {i: moments["state"][i] for i in (0, 1)}
    rest = {"epoch": 3, "global_step": 10, "pytorch-lightning_version": "1.8.6", "hyper_parameters": settings,
            "callbacks": {"ModelCheckpoint{'monitor': 'val/loss'}": {"best_model_score": torch.tensor(1.25), "dirpath": None, "kth_value": -0.5}},
            "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": (3, 3), "done": True}}},
            "optimizer_states": [moments], "lr_schedulers": []}
    for name, wrapped in (("dna.ckpt", False), ("dna.layer.ckpt", True)):
        renamed = type(state)((hyena.lightning(key, wrapped), t) for key, t in state.items())
        torch.save({"state_dict": renamed, **rest}, FOLDER / name)

    tensors = {hyena.hf(key): t for key, t in hyena.stored(model).items()}
    names, index = sorted(tensors), {}
    for shard, part in enumerate((names[: len(names) // 2], names[len(names) // 2 :]), 1):
        file = f"model-{shard:05d}-of-00002.safetensors"
        write_safetensors(f"dna-sharded/{file}", {key: tensors[key] for key in part})
        index.update({key: file for key in part})
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    write_json("dna-sharded/model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": index})


class Refused:
    def __reduce__(self):
        return print, ("A reader of weights called a function that the file named.",)


def write_odd_files():
    """Dtypes and views that a reader meets seldom, a file that calls a function when it is unpickled, and the old format."""
    values = torch.tensor([0.0, -0.0, 1.0, -2.5, 65504.0, 65520.0, 6e-8, 2.9802322387695312e-08, 1e-40, 3.4e38, 1 + 2**-8, 1 + 3 * 2**-8,
                           1 + 2**-11, 1 + 3 * 2**-11, 0.1, -1 / 3, math.inf, -math.inf, math.nan])
    write_safetensors("dtypes.safetensors", {
        "float32": values, "float16": values.half(), "bfloat16": values.bfloat16(), "float64": values.double(),
        "int64": torch.tensor([-(2**40), 0, 2**40]), "int32": torch.tensor([-5, 7], dtype=torch.int32), "uint8": torch.tensor([0, 255], dtype=torch.uint8),
        "bool": torch.tensor([True, False]), "scalar": torch.tensor(3.5), "empty": torch.zeros(2, 0, 3)})
    base = torch.arange(24.0).reshape(4, 6)
    torch.save({
        "base": base, "transposed": base.T, "slice": base[1:3, 2:5], "row": base[2], "every_other": base[:, ::2], "expanded": base[0, :1].expand(3),
        "parameter": torch.nn.Parameter(base[:2].clone()), "float16": values.half(), "bfloat16": values.bfloat16(), "float64": values.double(),
        "int64": torch.tensor([-(2**40), 0, 2**40]), "bool": torch.tensor([True, False]), "scalar": torch.tensor(3.5), "empty": torch.zeros(2, 0, 3),
        "python": [1, -1, 300, 70000, 2**40, -(2**70), 1.5, True, None, "text", b"bytes", (1,), (1, 2), {1, 2}, {"a": [1]}],
    }, FOLDER / "views.pt")
    torch.save({"state_dict": {"a": base}, "callbacks": Refused()}, FOLDER / "calls.ckpt")
    torch.save({"state_dict": {"a": base}}, FOLDER / "legacy.ckpt", _use_new_zipfile_serialization=False)


def write_published():
    """Keys and shapes of the published models: one layer stands for all."""
    def shapes(name):
        c = hyena.DNA_SIZES.get(name, hyena.LM_SMALL)
        model = hyena.HyenaModel(dataclasses.replace(c, layers=1, length=8))
        rename = hyena.hf if name in hyena.DNA_SIZES else (lambda key: key)
        table = {}
        for key, t in hyena.stored(model).items():
            shape = [c.length if key.endswith(("pos_emb.z", "pos_emb.t")) and i == 1 else n for i, n in enumerate(t.shape)]
            table[rename(key).replace("layers.0.", "layers.*.")] = shape
        trained = {rename(key).replace("layers.0.", "layers.*.") for key, _ in model.named_parameters()}
        count = lambda keys: sum(math.prod(table[key]) * (c.layers if "*" in key else 1) for key in keys)
        core = count(key for key in trained if not key.endswith("pos_emb.z") and key != "lm_head.weight")
        return {"config": dataclasses.asdict(c), "parameters": core, "numbers": count(table), "shapes": table}

    models = {name: shapes(name) for name in [*hyena.DNA_SIZES, "hyena-small"]}
    # found elsewhere: numbers of parameters without positions and head; bytes of three published files, which hold a header too
    assert models["tiny-1k"]["parameters"] == 436096 and models["large-1m"]["parameters"] == 6550528
    assert models["hyena-small"]["numbers"] - 18 * (4096 + 864) == 154916928  # all but the times and the decays
    assert abs(models["large-1m"]["numbers"] * 4 / 218e6 - 1) < 0.01 and abs(models["tiny-16k-d128"]["numbers"] * 4 / 2.55e6 - 1) < 0.01
    print({name: (m["parameters"], m["numbers"] * 4) for name, m in models.items()})
    write_json("published.json", models)


if __name__ == "__main__":
    torch.manual_seed(0)
    torch.set_num_threads(1)
    torch.backends.mkldnn.set_flags(False)  # PyTorch 1.13's float32 gradient of GELU is wrong there for transposed tensors
    FOLDER.mkdir(exist_ok=True)
    check.direct_convolutions(1)
    write_published()
    for i, case in enumerate(CASES):
        model, single = write_model(case, 100 + 10 * i)
        if case.name == "dna":
            write_checkpoints(model, single["optimiser"])
    write_rounded("layers.safetensors", layers.all_layers())
    write_odd_files()
