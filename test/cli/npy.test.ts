/** .npy files: every type and version read, every cut and hostile header refused, and what is written. */
import { execFileSync } from "node:child_process";
import { describe, expect, test } from "vitest";
import { npyHeader } from "../../src/cli/npy.ts";
import { allocate, SignalFile } from "../../src/cli/signal.ts";
import { type Dtype, decode, encode } from "../../src/dtype.ts";
import { FileError } from "../../src/errors.ts";
import { InputFile } from "../../src/files/input.ts";
import { normal } from "../support/signals.ts";
import { bytesOf, concat, Folder, npy, npyOf } from "./support.ts";

const call = "flashfftconv conv";
const samples = normal(24, 3);

/** Read a whole file in `dtype`. */
async function readAs(path: string, dtype: Dtype, said?: Dtype) {
  const file = await SignalFile.open(path, call, said);
  try {
    const target = allocate(dtype, file.count);
    await file.read(target, dtype);
    return { shape: file.shape, stored: file.stored, meaning: file.meaning, target };
  } finally {
    await file.close();
  }
}

async function refusal(path: string, said?: Dtype): Promise<FileError> {
  const error = await SignalFile.open(path, call, said).then(
    () => expect.fail("the file was accepted"),
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(FileError);
  const { parts } = error as FileError;
  expect(parts.call).toBe(call);
  for (const part of [parts.requirement, parts.value, parts.remedy]) expect(part).not.toBe("");
  return error as FileError;
}

describe("reading", () => {
  const float32 = encode(samples, "float32");
  const float16 = encode(samples, "float16");
  const bfloat16 = encode(samples, "bfloat16");

  test.each([
    ["<f4", "float32", float32],
    ["<f2", "float16", float16],
    ["<V2", "bfloat16", bfloat16],
    ["|V2", "bfloat16", bfloat16],
    ["bfloat16", "bfloat16", bfloat16],
  ] as const)("%s as it stands", async (descr, dtype, data) => {
    const path = new Folder().write("a.npy", npy(descr, [2, 3, 4], data));
    const { shape, meaning, target } = await readAs(path, dtype);
    expect([shape, meaning, target]).toEqual([[2, 3, 4], dtype, data]);
  });

  test.each([
    ["float16", float16],
    ["bfloat16", bfloat16],
  ] as const)("'<u2' as bits of %s", async (dtype, data) => {
    const path = new Folder().write("a.npy", npy("<u2", [24], data));
    expect((await readAs(path, dtype, dtype)).target).toEqual(data);
    expect((await refusal(path)).message).toContain("--dtype");
    expect((await refusal(path, "float32")).message).toContain("--dtype");
  });

  test.each(["float32", "float16", "bfloat16"] as const)(
    "widening to float32 is exact, narrowing rounds once: from %s",
    async (from) => {
      const descr = { float32: "<f4", float16: "<f2", bfloat16: "<V2" }[from];
      const stored = encode(samples, from);
      const path = new Folder().write("a.npy", npy(descr, [24], stored));
      const wide = decode(stored, from);
      for (const to of ["float32", "float16", "bfloat16"] as const) {
        expect((await readAs(path, to)).target).toEqual(encode(wide, to));
      }
    },
  );

  test("float64 is rounded where --dtype says so, refused where not", async () => {
    const path = new Folder().write("a.npy", npy("<f8", [24], samples));
    for (const dtype of ["float32", "float16", "bfloat16"] as const) {
      expect((await readAs(path, dtype, dtype)).target).toEqual(encode(samples, dtype));
    }
    expect((await refusal(path)).message).toContain("--dtype float32");
  });

  test.each([1, 2, 3])("format %i.0", async (version) => {
    const path = new Folder().write("a.npy", npy("<f4", [24], float32, version));
    expect((await readAs(path, "float32")).target).toEqual(float32);
  });

  test("a file that NumPy 2.4 wrote", async () => {
    // numpy.save(path, numpy.array([[1, -2.5], [0.1, 3e38]], numpy.float32))
    const header = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }";
    const bytes = concat("\x93NUMPY\x01\x00v\x00", header.padEnd(117), "\n");
    const data = Buffer.from("0000803f000020c0cdcccc3de6b1617f", "hex");
    const path = new Folder().write("a.npy", concat(bytes, data));
    const { shape, target } = await readAs(path, "float32");
    expect(shape).toEqual([2, 2]);
    expect(target).toEqual(Float32Array.of(1, -2.5, 0.1, 3e38));
  });

  test("from the middle, across the blocks of a conversion", async () => {
    const many = Float64Array.from({ length: 600_000 }, (_, i) => i);
    const path = new Folder().write("a.npy", npy("<f8", [600_000], many));
    const file = await SignalFile.open(path, call, "float32");
    const target = new Float32Array(300_000);
    const fractions: number[] = [];
    await file.read(target, "float32", 250_000, (fraction) => fractions.push(fraction));
    await file.close();
    const expected = Float32Array.from({ length: 300_000 }, (_, i) => 250_000 + i);
    expect(Buffer.compare(bytesOf(target), bytesOf(expected))).toBe(0);
    expect(fractions.length).toBeGreaterThan(1);
    expect(fractions.at(-1)).toBe(1);
  });
});

describe("refusing", () => {
  const data = encode(samples, "float32");
  const good = npy("<f4", [24], data);

  test("a file cut at any byte", async () => {
    const folder = new Folder();
    for (let length = 0; length < good.length; length++) {
      const error = await refusal(folder.write("cut.npy", good.subarray(0, length)));
      expect(error.message).toContain("cut.npy");
    }
  });

  test("bytes after the data", async () => {
    const path = new Folder().write("long.npy", concat(good, [0]));
    expect((await refusal(path)).message).toContain("must end with its data");
  });

  test.each([
    ["big-endian", "{'descr': '>f4', 'fortran_order': False, 'shape': (24,), }", "newbyteorder"],
    ["integers", "{'descr': '<i4', 'fortran_order': False, 'shape': (24,), }", "astype"],
    ["Python objects", "{'descr': '|O', 'fortran_order': False, 'shape': (24,), }", "astype"],
    [
      "a prototype's name",
      "{'descr': 'toString', 'fortran_order': False, 'shape': (24,), }",
      "descr",
    ],
    ["a structure", "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (24,), }", "descr"],
    ["Fortran order", "{'descr': '<f4', 'fortran_order': True, 'shape': (24,), }", "ascontiguous"],
    ["no dimension", "{'descr': '<f4', 'fortran_order': False, 'shape': (), }", "dimensions"],
    [
      "four dimensions",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (1, 1, 1, 24), }",
      "(B, H, L)",
    ],
    ["an empty dimension", "{'descr': '<f4', 'fortran_order': False, 'shape': (0, 24), }", "empty"],
    ["a negative size", "{'descr': '<f4', 'fortran_order': False, 'shape': (-24,), }", "header"],
    [
      "a huge size",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }",
      "shape",
    ],
    [
      "sizes whose product overflows",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }",
      "shape",
    ],
    [
      "more than the file holds",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (25,), }",
      "cut short",
    ],
    ["a missing field", "{'descr': '<f4', 'fortran_order': False, }", "header"],
    [
      "an unknown field",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (24,), 'x': True}",
      "header",
    ],
    [
      "code in place of a value",
      "{'descr': '<f4', 'fortran_order': open('x'), 'shape': (24,), }",
      "header",
    ],
    ["no dictionary", "import os", "header"],
    [
      "an unclosed dictionary",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (24,), ",
      "header",
    ],
    [
      "text after the dictionary",
      "{'descr': '<f4', 'fortran_order': False, 'shape': (24,)} + 1",
      "header",
    ],
  ])("%s", async (_, header, hint) => {
    const path = new Folder().write("hostile.npy", npyOf(header, data));
    expect((await refusal(path)).message).toContain(hint);
  });

  test("a future format, and a header of four gigabytes", async () => {
    const folder = new Folder();
    const future = Uint8Array.from(good);
    future[6] = 4;
    expect((await refusal(folder.write("future.npy", future))).message).toContain("4.0");
    const huge = concat("\x93NUMPY", [2, 0, 255, 255, 255, 255], good.subarray(10));
    expect((await refusal(folder.write("huge.npy", huge))).message).toContain("4,294,967,295");
  });

  // Backtracking over 9,000 brackets would outlast any test.
  test("a header that invites backtracking is refused", async () => {
    const path = new Folder().write("slow.npy", npyOf(`{${"'a':(".repeat(9000)}`, data));
    expect((await refusal(path)).message).toContain("slow.npy");
  });

  test("other files, and what is no file", async () => {
    const folder = new Folder();
    const text = folder.write("text.npy", concat("hello, world\n"));
    expect((await refusal(text)).message).toContain("begins with");
    expect((await refusal(folder.write("empty.npy", new Uint8Array(0)))).message).toContain(
      "0 bytes",
    );
    expect((await refusal(folder.path)).message).toContain("regular file");
    execFileSync("mkfifo", [folder.file("pipe.npy")]);
    expect((await refusal(folder.file("pipe.npy"))).message).toContain("regular file");
    expect((await refusal(folder.file("none.npy"))).message).toContain("does not exist");
  });

  test("a file that shrinks while it is read", async () => {
    const folder = new Folder();
    const path = folder.write("a.npy", good);
    const file = await InputFile.open(path, call);
    folder.write("a.npy", good.subarray(0, 150));
    await expect(file.read(new Uint8Array(96), 128)).rejects.toThrow(FileError);
    await file.close();
  });
});

describe("writing", () => {
  test.each([
    ["float32", [24]],
    ["float16", [4, 6]],
    ["bfloat16", [2, 3, 4]],
  ] as const)("%s %j reads back the same", async (dtype, shape) => {
    const data = encode(samples, dtype);
    const path = new Folder().write("a.npy", concat(npyHeader(dtype, shape), bytesOf(data)));
    const read = await readAs(path, dtype);
    expect([read.shape, read.meaning, read.target]).toEqual([[...shape], dtype, data]);
  });

  test("the header is NumPy's, byte for byte", () => {
    const text = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 2), }";
    const expected = concat("\x93NUMPY\x01\x00v\x00", text.padEnd(117), "\n");
    expect(Buffer.from(npyHeader("float32", [2, 2]))).toEqual(expected);
    expect(Buffer.from(npyHeader("bits16", [5])).toString("latin1")).toContain("'<u2'");
    expect(Buffer.from(npyHeader("bfloat16", [5])).toString("latin1")).toContain("'<V2'");
    expect(Buffer.from(npyHeader("float16", [5])).toString("latin1")).toContain("(5,)");
  });
});
