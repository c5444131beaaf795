/** Checkpoints: those that PyTorch wrote, and those that nobody should have. */
import { existsSync } from "node:fs";
import fc from "fast-check";
import { describe, expect, test } from "vitest";
import { UnsupportedError } from "../../src/errors.ts";
import type { PickledObject } from "../../src/formats/pickle.ts";
import { openPyTorch } from "../../src/formats/pytorch.ts";
import { goldBytes, goldOf, goldPath, listed, outcome, rounded, zip } from "./support.ts";

const seed = 15;

describe("files that PyTorch wrote", () => {
  test.each(["state.pt", "protocol4.bin", "lightning.ckpt"])(
    "%s holds what PyTorch says",
    async (name) => {
      const gold = goldOf(name);
      expect(Object.keys(gold).length).toBeGreaterThan(1);
      for (const source of [goldPath(name), new Blob([goldBytes(name)]), goldBytes(name)]) {
        const file = await openPyTorch(source);
        expect([...file.tensors.keys()].sort()).toEqual(Object.keys(gold).sort());
        for (const [key, tensor] of file.tensors)
          expect(await listed(tensor), key).toEqual(rounded(gold[key]!));
        await file.close();
      }
    },
  );

  test("all that stands beside the weights is there, and inert", async () => {
    const file = await openPyTorch(goldPath("lightning.ckpt"));
    const objects = file.objects as Map<string, unknown>;
    expect(objects.get("epoch")).toBe(3);
    expect(objects.get("global_step")).toBe(10_000_000_000);
    expect((objects.get("lr_schedulers") as unknown[]).slice(0, 5)).toEqual([
      null,
      true,
      0.5,
      -1,
      "é",
    ]);
    const [optimizer] = objects.get("optimizer_states") as Map<
      string,
      Map<number, Map<string, never>>
    >[];
    const { values } = await listed(optimizer!.get("state")!.get(1)!.get("exp_avg")!);
    // One step of Adam on a gradient of ones: 0.1 of it.
    expect(values).toEqual([0.1, 0.1, 0.1, 0.1].map((x) => expect.closeTo(x, 6)));
    const callbacks = objects.get("callbacks") as Map<string, PickledObject>;
    expect(callbacks.get("ModelCheckpoint")!.name).toBe("__main__.Callback");
    const state = callbacks.get("ModelCheckpoint")!.state as Map<string, unknown>;
    expect(state.get("best_model_path")).toBe("weights.ckpt");
    const hostile = callbacks.get("hostile")!;
    expect([hostile.name, hostile.args]).toEqual(["posix.system", ["touch executed"]]);
    expect(existsSync("executed")).toBe(false);
    const configuration = objects.get("hyper_parameters") as PickledObject;
    expect((configuration.state as Map<string, unknown>).get("d_model")).toBe(4);
    await file.close();
  });

  test("a file of before 1.6 says how to save it again", async () => {
    expect(await outcome(() => openPyTorch(goldPath("legacy.pt")))).toMatch(
      /legacy\.pt.* must be a checkpoint of PyTorch, a zip archive.*torch\.save of PyTorch 1\.6/,
    );
  });
});

describe("broken files", () => {
  const bytes = goldBytes("lightning.ckpt");

  test("cut at any byte", async () => {
    for (let length = 0; length < bytes.length; length += 7)
      expect(await outcome(() => openPyTorch(bytes.slice(0, length)))).toMatch(
        /^openPyTorch: "the bytes given"/,
      );
  });

  test("any byte that is changed gives an error or other values, never anything else", async () => {
    const whole = await outcome(() => openPyTorch(bytes));
    let refused = 0;
    await fc.assert(
      fc.asyncProperty(
        fc.nat(bytes.length - 1),
        fc.integer({ min: 1, max: 255 }),
        async (at, change) => {
          const broken = bytes.slice();
          broken[at]! ^= change;
          if ((await outcome(() => openPyTorch(broken))) !== whole) refused++;
        },
      ),
      { numRuns: 600, seed },
    );
    expect(refused).toBeGreaterThan(200);
  });

  test("changed weights are known by their check sum", async () => {
    const file = await openPyTorch(bytes);
    const tensor = file.tensors.get("model.backbone.filter_fn.bias")!;
    const own = Buffer.from(await tensor.bytes());
    const broken = bytes.slice();
    broken[Buffer.from(bytes).indexOf(own)]! ^= 1;
    expect(await outcome(() => openPyTorch(broken))).toMatch(/match their check sums/);
  });

  test("pickles of random operations end, and in a typed error or a value", async () => {
    const codes = [
      40, 41, 46, 48, 49, 50, 66, 67, 71, 74, 75, 77, 78, 81, 82, 88, 93, 97, 98, 99, 101, 104, 106,
    ];
    const more = [
      108, 113, 114, 115, 116, 117, 125, 128, 129, 133, 134, 135, 138, 139, 140, 143, 146, 147, 148,
      149,
    ];
    const operation = fc.oneof(fc.constantFrom(...codes, ...more), fc.nat(255));
    await fc.assert(
      fc.asyncProperty(fc.array(operation, { maxLength: 200 }), async (program) => {
        const data = Uint8Array.from([...program, 46]);
        expect(await outcome(() => openPyTorch(zip({ "a/data.pkl": data })))).toMatch(
          /^openPyTorch: /,
        );
      }),
      { numRuns: 1500, seed },
    );
  });
});

/** A pickle by hand: names and texts in Latin-1, the rest as operations. */
const pickle = (...parts: readonly (string | readonly number[])[]): Uint8Array =>
  Buffer.concat(
    parts.map((part) =>
      typeof part === "string" ? Buffer.from(part, "latin1") : Buffer.from(part),
    ),
  );
const text = (value: string): string => `X${String.fromCharCode(value.length)}\0\0\0${value}`;
const small = (value: number): string => `K${String.fromCharCode(value)}`;
const storage = (type: string, count: number): string =>
  `(${text("storage")}c${type}\n${text("0")}${text("cpu")}${small(count)}tQ`;
const tuple = (...values: readonly number[]): string => `(${values.map(small).join("")}t`;
/** A dict that holds, under w, the tensor of a call. */
const tensor = (
  type: string,
  count: number,
  offset: number,
  shape: string,
  strides: string,
  call = "_utils\n_rebuild_tensor_v2",
): Uint8Array =>
  pickle(
    "\x80\x02}",
    text("w"),
    `ctorch.${call}\n(`,
    storage(type, count),
    small(offset),
    shape,
    strides,
    "tRs.",
  );
const four = new Uint8Array(Float32Array.of(1, 2, 3, 4).buffer);
const archive = (data: Uint8Array, options = {}, more = {}): Uint8Array<ArrayBuffer> =>
  zip({ "a/data.pkl": data, "a/data/0": four, ...more }, options);
const float = "torch\nFloatStorage";

describe("archives by hand", () => {
  const plain = tensor(float, 4, 0, tuple(2, 2), tuple(2, 1));
  const whole = "w F32 2,2 0000803f000000400000404000008040";

  test("are read, with 64-bit fields, a comment and the order of bytes too", async () => {
    for (const [options, more] of [
      [{}, {}],
      [{ wide: true }, {}],
      [{ comment: "PK\x05\x06 and more" }, {}],
      [{}, { "a/byteorder": "little", "a/.data/serialization_id": "12" }],
    ])
      expect(await outcome(() => openPyTorch(archive(plain, options, more)))).toBe(whole);
  });

  test.each([
    [
      "compressed",
      archive(plain, { method: 8 }),
      /as they are; got "a\/data\.pkl", compressed by method 8.*zip -0/,
    ],
    ["encrypted", archive(plain, { flags: 1 }), /encrypted/],
    [
      "of a machine with the other order",
      archive(plain, {}, { "a/byteorder": "big" }),
      /little-endian numbers; got "big"/,
    ],
    ["without a pickle", zip({ "a/data/0": four }), /an archive without data\.pkl/],
    [
      "without its storage",
      zip({ "a/data.pkl": plain }),
      /must hold the bytes of storage "0"; got undefined for 4/,
    ],
    [
      "with a storage of another size",
      zip({ "a/data.pkl": plain, "a/data/0": four.slice(4) }),
      /got 12 for 4 of F32/,
    ],
    ["with nothing", archive(pickle("\x80\x02}.")), /tensors by their names; got none.*state_dict/],
    [
      "with an object of a class alone",
      archive(pickle("\x80\x02cmy\nModel\n)\x81.")),
      /tensors by their names/,
    ],
    ["empty", new Uint8Array(0), /an empty file/],
    ["of text", Buffer.from("hello, world"), /another file/],
    ["with names but no end", archive(pickle("\x80\x02}")), /an end before STOP/],
    ["of protocol 0", archive(pickle("(dp0\n.")), /operation 100/],
    ["that calls what is no name", archive(pickle("\x80\x02}))R.")), /a call of what is no name/],
  ])("%s: an error that says so", async (_, bytes, message) => {
    expect(await outcome(() => openPyTorch(new Uint8Array(bytes)))).toMatch(message);
  });

  test.each([
    [
      "beyond its storage",
      tensor(float, 4, 1, tuple(2, 2), tuple(2, 1)),
      /lie within their storages/,
    ],
    [
      "strides beyond it",
      tensor(float, 4, 0, tuple(2, 2), tuple(3, 1)),
      /lie within their storages/,
    ],
    [
      "more sizes than strides",
      tensor(float, 4, 0, tuple(2, 2), tuple(1)),
      /lie within their storages/,
    ],
    [
      "sparse",
      tensor(float, 4, 0, tuple(2), tuple(1), "_utils\n_rebuild_sparse_tensor"),
      /dense tensors; got torch\._utils\._rebuild_sparse_tensor/,
    ],
    [
      "quantised",
      tensor("torch\nQInt8Storage", 4, 0, tuple(2), tuple(1)),
      /storages of class .*; got torch\.QInt8Storage/,
    ],
    [
      "expanded beyond measure",
      tensor(float, 4, 0, `(${"K\xff".repeat(5)}t`, tuple(0, 0, 0, 0, 0)),
      /expanded of fewer/,
    ],
  ])("a tensor %s: an error that says so", async (_, data, message) => {
    expect(await outcome(() => openPyTorch(archive(data)))).toMatch(message);
  });

  test("a tensor of another kind is an error, an object of another class is none", async () => {
    const beside = pickle(
      "\x80\x02}",
      text("w"),
      plain.subarray(9, -2) as never,
      "s",
      text("x"),
      "cmy\nThing\n)Rs.",
    );
    const file = await openPyTorch(archive(beside));
    expect((file.objects as Map<string, PickledObject>).get("x")!.name).toBe("my.Thing");
    const sparse = archive(
      tensor(float, 4, 0, tuple(2), tuple(1), "_utils\n_rebuild_sparse_tensor"),
    );
    await expect(openPyTorch(sparse)).rejects.toBeInstanceOf(UnsupportedError);
  });

  test("a dict that holds itself, and lists within lists without end, come to an end", async () => {
    const own = pickle(
      "\x80\x02}q\x00",
      text("me"),
      "h\x00s",
      text("w"),
      plain.subarray(9, -2) as never,
      "s.",
    );
    expect(await outcome(() => openPyTorch(archive(own)))).toBe(whole);
    const deep = pickle("\x80\x02", "]".repeat(50_000), "a".repeat(49_999), ".");
    expect(await outcome(() => openPyTorch(archive(deep)))).toMatch(/tensors by their names/);
    const rebuild = "ctorch._tensor\n_rebuild_from_type_v2\n";
    const circle = pickle("\x80\x02", rebuild, "(", rebuild, "N", rebuild, "]q\x00h\x00atR.");
    expect(await outcome(() => openPyTorch(archive(circle)))).toMatch(/^openPyTorch/);
  });
});
