"""Writes the files of test/formats/files with PyTorch: python3 test/gold/formats.py (written with PyTorch 1.13)."""
import argparse
import collections
import json
import os
import pathlib
import struct

import torch

folder = pathlib.Path(__file__).parent.parent / "formats" / "files"
folder.mkdir(parents=True, exist_ok=True)
torch.manual_seed(15)


def listed(tensor):
    """What a test compares: type, shape, and the values as float64 in row-major order."""
    values = tensor.detach().to(torch.float64).reshape(-1).tolist()
    return {"dtype": str(tensor.dtype)[6:], "shape": list(tensor.shape), "values": values}


expected = {}


def save(name, value, tensors, **options):
    torch.save(value, folder / name, **options)
    expected[name] = {key: listed(tensor) for key, tensor in tensors.items()}


base = torch.randn(4, 6)
state = collections.OrderedDict(
    float32=torch.randn(2, 3),
    float64=torch.randn(3, dtype=torch.float64),
    float16=torch.randn(5).half(),
    bfloat16=torch.randn(5).bfloat16(),
    int64=torch.tensor([-(2**40), -1, 0, 7, 2**52]),
    int32=torch.tensor([-(2**31), 5, 2**31 - 1], dtype=torch.int32),
    int16=torch.tensor([-(2**15), 2**15 - 1], dtype=torch.int16),
    int8=torch.tensor([-128, 127], dtype=torch.int8),
    uint8=torch.tensor([0, 200, 255], dtype=torch.uint8),
    bool=torch.tensor([True, False, True]),
    scalar=torch.tensor(2.5),
    empty=torch.zeros(0, 3),
    base=base,
    transposed=base.t(),
    rows=base[1:3],
    steps=base[::2, 1::2],
    expanded=torch.tensor([1.5, -2.5])[:, None].expand(2, 4),
    permuted=torch.randn(2, 3, 4).permute(2, 0, 1),
    parameter=torch.nn.Parameter(torch.randn(3)),
)
state["emoji 🧬"] = torch.ones(1)
save("state.pt", state, state)
save("protocol4.bin", {"nested": [{"w": base}, (base[0], 2**80)], "blob": b"\x00\xff"},
     {"nested.0.w": base, "nested.1.0": base[0]}, pickle_protocol=4)
save("legacy.pt", {"w": base}, {}, _use_new_zipfile_serialization=False)


class Filter(torch.nn.Module):
    def __init__(self, d, length):
        super().__init__()
        self.bias = torch.nn.Parameter(torch.randn(d))
        self.pos_emb = torch.nn.Module()
        self.pos_emb.z = torch.nn.Parameter(torch.randn(1, length, 5))
        self.pos_emb.register_buffer("t", torch.linspace(0, 1, length)[None, :, None])


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embeddings = torch.nn.Embedding(16, 4)
        self.filter_fn = Filter(4, 6)
        self.norm = torch.nn.LayerNorm(4)


class Callback:
    """Of a module that no reader has."""

    def __init__(self):
        self.best_model_path, self.dirpath = "weights.ckpt", pathlib.PosixPath("out")


class Hostile:
    def __reduce__(self):
        return os.system, ("touch executed",)


model = Model()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
(model.embeddings(torch.tensor([7, 8])).sum() + model.filter_fn.bias.sum()).backward()
optimizer.step()
state = model.state_dict(prefix="model.backbone.")  # an OrderedDict that has an attribute
save("lightning.ckpt", {
    "epoch": 3,
    "global_step": 10_000_000_000,
    "pytorch-lightning_version": "1.8.6",
    "state_dict": state,
    "callbacks": {"ModelCheckpoint": Callback(), "hostile": Hostile()},
    "optimizer_states": [optimizer.state_dict()],
    "lr_schedulers": [None, True, 0.5, -1, "é", {1, 2}],
    "hyper_parameters": argparse.Namespace(d_model=4, dtype=torch.float16, device=torch.device("cpu")),
}, state)

# A file of the safetensors format as its page describes it, written without its library.
names = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64"}
tensors = {"a": torch.randn(2, 3), "b.half": torch.randn(3).half(), "c": torch.randn(4).bfloat16(),
           "d": torch.tensor([[-5, 2**52]]), "nothing": torch.zeros(0), "one": torch.tensor(3.0)}
header, data = {"__metadata__": {"format": "pt", "é": "🧬"}}, b""
for name, tensor in tensors.items():
    storage = tensor.contiguous().view(torch.int16) if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
    part = storage.numpy().tobytes()
    header[name] = {"dtype": names[tensor.dtype], "shape": list(tensor.shape),
                    "data_offsets": [len(data), len(data) + len(part)]}
    data += part
text = json.dumps(header, ensure_ascii=False).encode()
text += b" " * (-len(text) % 8)
(folder / "state.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + data)
expected["state.safetensors"] = {name: listed(tensor) for name, tensor in tensors.items()}

(folder / "expected.json").write_text(json.dumps({"torch": torch.__version__, "files": expected}, indent=1) + "\n")
