/** The safetensors format: round trips, files of others, and files that break its rules. */
import { dirname } from "node:path";
import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { FileError, InvalidArgumentError, UnsupportedError } from "../../src/errors.ts";
import { type Disk, plainContext, systemDisk } from "../../src/files/output.ts";
import { openPyTorch } from "../../src/formats/pytorch.ts";
import {
  openSafetensors,
  safetensorsBlob,
  writeSafetensors,
} from "../../src/formats/safetensors.ts";
import {
  elements,
  float32Of,
  type StoredTensor,
  storedBytes,
  type TensorType,
  tensorOf,
  typeBits,
} from "../../src/formats/stored.ts";
import { Folder } from "../cli/support.ts";
import { goldBytes, goldOf, goldPath, listed, outcome, rounded } from "./support.ts";

const seed = 15;
const types = Object.keys(typeBits) as TensorType[];

/** Tensors of any type, name and shape. */
const anyTensors: fc.Arbitrary<Map<string, StoredTensor>> = fc
  .dictionary(
    fc.string({ unit: "grapheme", maxLength: 12 }).filter((name) => name !== "__metadata__"),
    fc
      .record({
        dtype: fc.constantFrom(...types),
        shape: fc.array(fc.nat(4), { maxLength: 4 }),
        fill: fc.nat(255),
      })
      .map(({ dtype, shape, fill }) => {
        const bytes = Uint8Array.from(
          { length: storedBytes(dtype, elements(shape)) },
          (_, i) => fill + i * 31,
        );
        return tensorOf(bytes, shape, dtype);
      }),
    { maxKeys: 6 },
  )
  .map((tensors) => new Map(Object.entries(tensors)));

const anyMetadata = fc.option(fc.dictionary(fc.string(), fc.string(), { maxKeys: 3 }), {
  nil: undefined,
});

async function contents(tensors: ReadonlyMap<string, StoredTensor>) {
  const all: Record<string, unknown> = {};
  for (const [name, tensor] of [...tensors].sort(([a], [b]) => (a < b ? -1 : 1))) {
    const { dtype, shape } = tensor;
    all[name] = { dtype, shape, bytes: Buffer.from(await tensor.bytes()).toString("hex") };
  }
  return all;
}

/** A file of a header, as text or as what JSON makes of it, and so many bytes of data. */
function made(header: unknown, data = 0, length?: number): Uint8Array<ArrayBuffer> {
  const plain = typeof header === "string" || Buffer.isBuffer(header);
  const text = Buffer.from(plain ? header : JSON.stringify(header));
  const start = Buffer.alloc(8);
  start.writeBigUInt64LE(BigInt(length ?? text.length));
  return new Uint8Array(Buffer.concat([start, text, Buffer.alloc(data, 1)]));
}

const weights = (): Map<string, StoredTensor> =>
  new Map([
    ["a", tensorOf(Float32Array.of(1, 2, 3, 4, 5, 6), [2, 3])],
    ["b", tensorOf(Uint16Array.of(0x3c00, 0xbc00), [2], "F16")],
    ["c", tensorOf(BigInt64Array.of(-1n), [])],
  ]);

describe("round trips", () => {
  test("any tensors and texts, through a Blob", async () => {
    await fc.assert(
      fc.asyncProperty(anyTensors, anyMetadata, async (tensors, metadata) => {
        const blob = await safetensorsBlob(tensors, metadata && { metadata });
        const file = await openSafetensors(blob);
        expect(await contents(file.tensors)).toEqual(await contents(tensors));
        expect(file.metadata).toEqual(metadata ?? {});
      }),
      { numRuns: 200, seed },
    );
  });

  test("every tensor begins at a multiple of its element's size", async () => {
    await fc.assert(
      fc.asyncProperty(anyTensors, async (tensors) => {
        const bytes = await (await safetensorsBlob(tensors)).arrayBuffer();
        const length = Number(new DataView(bytes).getBigUint64(0, true));
        const header = JSON.parse(Buffer.from(bytes, 8, length).toString()) as Record<
          string,
          never
        >;
        for (const {
          dtype,
          data_offsets: [begin],
        } of Object.values(header) as { dtype: TensorType; data_offsets: [number] }[])
          expect(
            (8 + length + begin) % (typeBits[dtype] / 8 || 1) === 0 || typeBits[dtype] < 8,
          ).toBe(true);
      }),
      { numRuns: 50, seed },
    );
  });

  test("the bytes of a file, to the last", async () => {
    const bytes = Buffer.from(
      await (await safetensorsBlob(weights(), { metadata: { format: "pt" } })).arrayBuffer(),
    );
    const header =
      '{"__metadata__":{"format":"pt"},"c":{"dtype":"I64","shape":[],"data_offsets":[0,8]},' +
      '"a":{"dtype":"F32","shape":[2,3],"data_offsets":[8,32]},"b":{"dtype":"F16","shape":[2],"data_offsets":[32,36]}}';
    const padded = header.padEnd(Math.ceil(header.length / 8) * 8);
    expect(bytes.subarray(0, 8).readBigUInt64LE()).toBe(BigInt(padded.length));
    expect(bytes.subarray(8, 8 + padded.length).toString()).toBe(padded);
    expect(bytes.subarray(8 + padded.length).toString("hex")).toBe(
      "ffffffffffffffff0000803f0000004000004040000080400000a0400000c040003c00bc",
    );
  });

  test("in several files and an index: those that fit into one, in one", async () => {
    const folder = new Folder();
    const path = folder.file("model.safetensors.index.json");
    await writeSafetensors(path, weights(), { shardBytes: 24, metadata: { by: "test" } });
    expect(folder.list()).toEqual([
      "model-00001-of-00002.safetensors",
      "model-00002-of-00002.safetensors",
      "model.safetensors.index.json",
    ]);
    const index = JSON.parse(Buffer.from(folder.read("model.safetensors.index.json")).toString());
    expect(index.metadata.total_size).toBe(36);
    expect(index.weight_map).toEqual({
      a: folder.list()[0],
      b: folder.list()[1],
      c: folder.list()[1],
    });
    const file = await openSafetensors(path);
    expect(await contents(file.tensors)).toEqual(await contents(weights()));
    expect(file.metadata).toEqual({ by: "test" });
    await file.close();
    const blob = (name: string) => new Blob([folder.read(name)]);
    const again = await openSafetensors(blob("model.safetensors.index.json"), { shard: blob });
    expect(await contents(again.tensors)).toEqual(await contents(weights()));
    const single = folder.file("one.safetensors");
    await writeSafetensors(single, weights(), { shardBytes: 36 });
    await expect(writeSafetensors(single, weights(), { shardBytes: 35 })).rejects.toThrow(
      /ends in \.safetensors\.index\.json/,
    );
  });

  test("a checkpoint of PyTorch becomes a file of the format, tensor by tensor", async () => {
    const folder = new Folder();
    const from = await openPyTorch(goldPath("state.pt"));
    await writeSafetensors(folder.file("state.safetensors"), from.tensors);
    const to = await openSafetensors(folder.file("state.safetensors"));
    const gold = goldOf("state.pt");
    for (const [name, tensor] of to.tensors)
      expect(await listed(tensor)).toEqual(rounded(gold[name]!));
    expect(to.tensors.size).toBe(Object.keys(gold).length);
    await Promise.all([from.close(), to.close()]);
  });
});

test("a file that PyTorch's numbers were written into", async () => {
  const gold = goldOf("state.safetensors");
  const file = await openSafetensors(goldPath("state.safetensors"));
  expect(file.metadata).toEqual({ format: "pt", é: "🧬" });
  expect([...file.tensors.keys()]).toEqual(Object.keys(gold));
  for (const [name, tensor] of file.tensors)
    expect(await listed(tensor)).toEqual(rounded(gold[name]!));
  await file.close();
});

test("only what is asked for is read", async () => {
  const blob = await safetensorsBlob(
    new Map([
      ["big", tensorOf(new Float32Array(2 ** 20), [2 ** 20])],
      ["small", tensorOf(Float32Array.of(7), [1])],
    ]),
  );
  let bytes = 0;
  const counted = Object.assign(Object.create(Blob.prototype) as Blob, {
    slice: (from: number, to: number) => {
      bytes += to - from;
      return blob.slice(from, to);
    },
  });
  Object.defineProperty(counted, "size", { value: blob.size });
  const file = await openSafetensors(counted);
  expect(Array.from(await float32Of(file.tensors.get("small")!))).toEqual([7]);
  expect(bytes).toBeLessThan(300);
});

test("a file of a terabyte: places beyond 32 bits, and nothing between them is read", async () => {
  const first = 2 ** 40;
  const header = {
    first: { dtype: "F32", shape: [2 ** 10, 2 ** 28], data_offsets: [0, first] },
    last: { dtype: "F32", shape: [2], data_offsets: [first, first + 8] },
  };
  const start = made(header);
  const end = new Uint8Array(Float32Array.of(3, 4).buffer);
  const size = start.length + first + 8;
  const whole = Object.assign(Object.create(Blob.prototype) as Blob, {
    slice: (from: number, to: number) =>
      new Blob([from < start.length ? start.slice(from, to) : end.slice(from - size + 8)]),
  });
  Object.defineProperty(whole, "size", { value: size });
  const file = await openSafetensors(whole);
  expect(Array.from(await float32Of(file.tensors.get("last")!))).toEqual([3, 4]);
  await expect(file.tensors.get("first")!.bytes()).rejects.toThrow(
    /fit into memory; got 1,099,511,627,776 bytes/,
  );
});

describe("broken files", () => {
  const one = { dtype: "F32", shape: [2], data_offsets: [0, 8] };
  const two = { dtype: "F32", shape: [2], data_offsets: [8, 16] };
  test.each([
    ["empty", new Uint8Array(0), /cut short: 8 bytes are needed; got 0 bytes/],
    ["of seven bytes", new Uint8Array(7), /cut short/],
    [
      "with a header longer than itself",
      made({ one }, 8, 1000),
      /has 2 to .* bytes; got 1,000 bytes/,
    ],
    [
      "with a header of 2^63 bytes",
      made({ one }, 8, 2 ** 63),
      /got 9,223,372,036,854,776,000 bytes/,
    ],
    ["with no header", made("", 8), /got 0 bytes/],
    ["of no JSON", made("{nonsense"), /an object in JSON as its header; got \{nonsense/],
    ["of a list", made([1]), /an object in JSON/],
    ["of null", made("null"), /an object in JSON/],
    ["of no UTF-8", made(Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x7d])), /an object in JSON/],
    ["cut short", made({ one }, 7), /cut short: they need 72 bytes; got 71 bytes/],
    ["longer than its tensors", made({ one }, 9), /end with its tensors/],
    [
      "with an overlap",
      made({ one, two: { ...two, data_offsets: [4, 12] } }, 12),
      /without gaps or overlaps; got "two" at 4 after 8 bytes/,
    ],
    ["with a gap", made({ one, two: { ...two, data_offsets: [12, 20] } }, 20), /without gaps/],
    ["with two tensors in one place", made({ one, two: one }, 8), /without gaps or overlaps/],
    [
      "with a range of another size",
      made({ one: { ...one, shape: [3] } }, 8),
      /dtype, shape and data_offsets of "one", which agree/,
    ],
    [
      "with a range that ends before it begins",
      made({ one: { ...one, data_offsets: [8, 0] } }, 8),
      /which agree/,
    ],
    ["with a negative size", made({ one: { ...one, shape: [-2] } }, 8), /which agree/],
    [
      "with sizes whose product is beyond numbers",
      made({ one: { ...one, shape: [2 ** 40, 2 ** 40] } }, 8),
      /which agree/,
    ],
    ["with half a size", made({ one: { ...one, shape: [0.5, 4] } }, 8), /which agree/],
    ["with no shape", made({ one: { dtype: "F32", data_offsets: [0, 8] } }, 8), /which agree/],
    ["with more said of a tensor", made({ one: { ...one, order: "F" } }, 8), /which agree/],
    ["with a tensor that is a number", made({ one: 1 }, 8), /which agree/],
    [
      "with metadata that are no texts",
      made({ __metadata__: { a: 1 }, one }, 8),
      /texts as metadata/,
    ],
    [
      "with a type that is none",
      made({ one: { ...one, dtype: "toString" } }, 8),
      /must be of type .*got "toString"/,
    ],
    [
      "with a name of control characters",
      made({ "\u001b[31m": { ...one, shape: [3] } }, 8),
      /of "\\u001b\[31m"/,
    ],
  ])("%s: an error that names the file", async (_, bytes, message) => {
    const text = await outcome(() => openSafetensors(bytes));
    expect(text).toMatch(/^openSafetensors: .*"the bytes given"/);
    expect(text).toMatch(message);
  });

  test("an unknown type is named with its tensor", async () => {
    const bytes = made({ one: { ...one, dtype: "F8_NEW" } }, 8);
    const error = await openSafetensors(bytes).catch((e: unknown) => e);
    expect(error).toBeInstanceOf(UnsupportedError);
    expect((error as Error).message).toMatch(
      /"one" in "the bytes given" must be of type .*got "F8_NEW"/,
    );
  });

  test("names that objects have of their own are names like any other", async () => {
    const text =
      '{"__proto__":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"constructor":{"dtype":"U8","shape":[1],"data_offsets":[1,2]}}';
    expect(await outcome(() => openSafetensors(made(text, 2)))).toBe(
      "__proto__ U8 1 01\nconstructor U8 1 01",
    );
  });

  test("cut at any byte, or with any byte changed", async () => {
    const bytes = goldBytes("state.safetensors");
    for (let length = 0; length < bytes.length; length++)
      expect(await outcome(() => openSafetensors(bytes.slice(0, length)))).toMatch(
        /^openSafetensors: /,
      );
    const whole = await outcome(() => openSafetensors(bytes));
    let changed = 0;
    for (let at = 0; at < bytes.length; at++) {
      for (const change of [1, 0x20, 0x80]) {
        const broken = bytes.slice();
        broken[at]! ^= change;
        if ((await outcome(() => openSafetensors(broken))) !== whole) changed++;
      }
    }
    expect(changed).toBeGreaterThan(2 * bytes.length);
  });

  test("headers of any JSON", async () => {
    const entry = fc.oneof(
      fc.record({
        dtype: fc.constantFrom("F32", "U8", "F4", "?"),
        shape: fc.array(fc.integer({ min: -1, max: 3 })),
        data_offsets: fc.array(fc.nat(16)),
      }),
      fc.jsonValue(),
    );
    await fc.assert(
      fc.asyncProperty(fc.dictionary(fc.string(), entry), fc.nat(16), async (header, data) => {
        await outcome(() => openSafetensors(made(header, data)));
      }),
      { numRuns: 500, seed },
    );
    const deep = `${'{"a":'.repeat(100_000)}1${"}".repeat(100_000)}`;
    expect(await outcome(() => openSafetensors(made(deep)))).toMatch(/which agree|in JSON/);
  });

  test.each([
    ["no map", {}, /weight_map of texts/],
    ["a map of numbers", { weight_map: { a: 1 } }, /weight_map of texts/],
    ["a file elsewhere", { weight_map: { a: "../a" } }, /name files beside it; got "\.\.\/a"/],
    ["the folder", { weight_map: { a: "." } }, /name files beside it/],
    [
      "a file that is not there",
      { weight_map: { a: "none" } },
      /none" must be readable; got a path that does not exist/,
    ],
    [
      "a tensor that is not there",
      { weight_map: { a: "x", b: "x", c: "x", d: "x" } },
      /got "d", not there/,
    ],
    ["not all tensors", { weight_map: { a: "x", b: "x" } }, /got "c", left out/],
    ["no JSON", "{no", /an object in JSON/],
  ])("an index with %s", async (_, index, message) => {
    const folder = new Folder();
    await writeSafetensors(folder.file("x"), weights());
    const text = typeof index === "string" ? index : JSON.stringify(index);
    const path = folder.write("m.index.json", Buffer.from(text));
    expect(await outcome(() => openSafetensors(path))).toMatch(message);
  });
});

describe("writing", () => {
  /** A disk that is full after so many bytes. */
  function full(bytes: number): Disk {
    let left = bytes;
    return {
      ...systemDisk,
      write: (descriptor, part) => {
        if (left === 0)
          return Promise.reject(Object.assign(new Error("ENOSPC"), { code: "ENOSPC" }));
        const taken = part.subarray(0, Math.min(left, part.length));
        left -= taken.length;
        return systemDisk.write(descriptor, taken);
      },
    };
  }

  test("a full disk leaves what was there, whichever byte is the first that does not fit", async () => {
    const folder = new Folder();
    const path = folder.file("model.safetensors.index.json");
    await writeSafetensors(path, weights(), { shardBytes: 24 });
    const before = folder
      .list()
      .map((name) => [name, Buffer.from(folder.read(name)).toString("hex")]);
    const other = new Map(
      [...weights()].map(([name, { dtype, shape }]) => [
        name,
        tensorOf(new Uint8Array(storedBytes(dtype, elements(shape))), shape, dtype),
      ]),
    );
    let refused = 0;
    for (let bytes = 0; bytes < 900; bytes += 50) {
      const context = { ...plainContext(), disk: full(bytes) };
      const error = await writeSafetensors(path, other, { shardBytes: 24, context }).catch(
        (e: unknown) => e,
      );
      if (error === undefined) break;
      refused++;
      expect((error as FileError).message).toMatch(/writeSafetensors: .* a disk that is full/);
      expect(
        folder.list().map((name) => [name, Buffer.from(folder.read(name)).toString("hex")]),
      ).toEqual(before);
    }
    expect(refused).toBeGreaterThan(5);
  });

  test("a tensor whose bytes cannot be had leaves what was there", async () => {
    const folder = new Folder();
    const path = folder.file("a");
    await writeSafetensors(path, weights());
    const before = folder.read("a");
    const lost: StoredTensor = {
      dtype: "F32",
      shape: [1],
      bytes: () =>
        Promise.reject(new FileError({ call: "x", requirement: "y", value: "z", remedy: "w" })),
    };
    await expect(writeSafetensors(path, new Map([["lost", lost]]))).rejects.toBeInstanceOf(
      FileError,
    );
    const short: StoredTensor = { dtype: "F32", shape: [2], bytes: async () => new Uint8Array(4) };
    await expect(writeSafetensors(path, new Map([["short", short]]))).rejects.toThrow(
      /"short" must be .* whose bytes are those of its shape.*got 4 bytes/,
    );
    expect(folder.list()).toEqual(["a"]);
    expect(folder.read("a")).toEqual(before);
  });

  test.each([
    ["a name of the format's own", "__metadata__", tensorOf(new Float32Array(1), [1]), {}],
    [
      "a type that is none",
      "a",
      { dtype: "F99", shape: [1], bytes: async () => new Uint8Array(1) },
      {},
    ],
    [
      "a shape that is none",
      "a",
      { dtype: "F32", shape: [-1], bytes: async () => new Uint8Array(1) },
      {},
    ],
    [
      "metadata that are no texts",
      "a",
      tensorOf(new Float32Array(1), [1]),
      { metadata: { step: 1 } },
    ],
  ])("refuses %s", async (_, name, tensor, options) => {
    const folder = new Folder();
    const write = () =>
      writeSafetensors(
        folder.file("a"),
        new Map([[name, tensor as StoredTensor]]),
        options as never,
      );
    await expect(write).rejects.toBeInstanceOf(InvalidArgumentError);
    expect(folder.list()).toEqual([]);
  });

  test("a folder that is not there is named before any work", async () => {
    const path = `${dirname(goldPath("x"))}/none/a`;
    await expect(writeSafetensors(path, weights())).rejects.toThrow(
      /none" must be a folder that can be written to/,
    );
  });
});
