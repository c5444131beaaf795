"""Writes the gold files: tensors as safetensors, scalars and token ids as JSON."""

import json
import struct
from pathlib import Path

import torch

FOLDER = Path(__file__).parent / "files"
NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.uint8: "U8", torch.bool: "BOOL",
}


def data(t):
    t = t.detach().contiguous()
    return (t.view(torch.int16) if t.dtype == torch.bfloat16 else t).numpy().tobytes()  # numpy has no bfloat16


def write_safetensors(name, tensors):
    """8 bytes: length of the header; the header as JSON, padded with blanks to a multiple of 8; the tensors."""
    header, parts, end = {"__metadata__": {"format": "pt"}}, [], 0
    for key in sorted(tensors):
        parts.append(data(tensors[key]))
        start, end = end, end + len(parts[-1])
        header[key] = {"dtype": NAMES[tensors[key].dtype], "shape": list(tensors[key].shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    path = FOLDER / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(parts))


def write_rounded(name, tensors):
    """Writes float64 results as float32: half the bytes, and 6e-8 is far below every tolerance."""
    write_safetensors(name, {key: t.float() for key, t in tensors.items()})


def write_json(name, value):
    lines = [f"  {json.dumps(key)}: {json.dumps(value[key])}" for key in value]
    (FOLDER / name).write_text("{\n" + ",\n".join(lines) + "\n}\n")
