/** Calls of the short convolutions: what is refused and how, tensors with shapes, lent arrays, memory given back. */
import { describe, expect, test } from "vitest";
import { openCpu } from "../../src/backend/cpu/backend.ts";
import {
  FlashDepthwiseConv1d,
  type FlashDepthwiseConv1dOptions,
  FlashHyenaProjections,
  InvalidArgumentError,
} from "../../src/index.ts";
import { activations } from "../../src/math/activation.ts";
import { expectSameBits } from "../support/close.ts";

const simd = { instructions: "simd", threads: 1 } as const;

function create(
  options: Partial<FlashDepthwiseConv1dOptions<"float32">>,
): Promise<FlashDepthwiseConv1d> {
  return FlashDepthwiseConv1d.create({ channels: 2, kernelLength: 4, ...simd, ...options });
}

/** The message of the typed error that `action` rejects with. */
async function refusal(action: () => Promise<unknown>): Promise<string> {
  const thrown = await action().then(
    () => undefined,
    (error: unknown) => error,
  );
  expect(thrown).toBeInstanceOf(InvalidArgumentError);
  return (thrown as InvalidArgumentError).message;
}

describe("options", () => {
  const refused: readonly [Record<string, unknown>, string][] = [
    [{ channels: 0 }, "channels must be an integer from 1"],
    [{ kernelLength: 257 }, "kernelLength must be an integer from 1 to 256"],
    [{ kernelLength: 0 }, "kernelLength"],
    [{ padding: "valid" }, "padding must be 'causal', 'same' or [left, right]"],
    [{ padding: [1] }, "padding must be"],
    [{ padding: [0, -1] }, "padding[1] must be an integer"],
    [{ padding: [1.5, 0] }, "padding[0] must be an integer"],
    [{ layout: "LBH" }, "layout must be one of BHL, BLH"],
    [{ dtype: "float64" }, "dtype must be one of"],
    [
      { activation: "swish" },
      `activation must be one of none, ${Object.keys(activations).join(", ")}`,
    ],
    [{ batch: 0 }, "batch must be an integer"],
    [{ backend: "tpu" }, "backend must be one of"],
    [{ threads: 0 }, "threads must be an integer"],
    [{ chanels: 2 }, "options may have channels"],
    [
      { pregate: "first" },
      "batch, activation, backend, device, workspaceBytes, threads, workerUrl, instructions; got",
    ],
  ];
  test.each(refused)("%o", async (options, requirement) => {
    const message = await refusal(() => create(options as never));
    expect(message).toContain("FlashDepthwiseConv1d.create");
    expect(message).toContain(requirement);
  });

  test("a misspelt option is named before the one that it leaves missing", async () => {
    const options = { channels: 2, kernel_size: 3 } as never;
    for (const type of [FlashDepthwiseConv1d, FlashHyenaProjections]) {
      const message = await refusal(() => type.create(options));
      expect(message).toContain(`${type.name}.create: options may have channels, kernelLength`);
      expect(message).toContain('got "kernel_size"');
    }
  });

  test("no options at all", async () => {
    expect(await refusal(() => FlashDepthwiseConv1d.create(undefined as never))).toContain(
      "options must be an object",
    );
  });

  test("pregate of the projections", async () => {
    const options = { channels: 1, kernelLength: 3, pregate: "third" as never };
    expect(await refusal(() => FlashHyenaProjections.create(options))).toContain("pregate");
  });
});

describe("operands", () => {
  const x = new Float32Array(20).fill(1);
  const weight = new Float32Array(8).fill(1);

  test.each([
    ["x of another type", [new Float64Array(20), weight], "x must be a Float32Array"],
    ["x of no whole channels", [new Float32Array(21), weight], "2 channels"],
    ["a shape of another rank", [{ data: x, shape: [2, 10] }, weight], "shape (B, H, L)"],
    ["a shape of other channels", [{ data: x, shape: [2, 1, 10] }, weight], "2 channels"],
    ["too few taps", [x, new Float32Array(6)], "weight must hold 8 samples"],
    ["a short bias", [x, weight, { bias: new Float32Array(1) }], "bias must hold 2 samples"],
    ["a short state", [x, weight, { state: new Float32Array(5) }], "state must hold 6 samples"],
    ["an operand that there is not", [x, weight, { biass: x }], "options may have bias, state"],
    ["a short out", [x, weight, { out: new Float32Array(19) }], "out must hold 20 samples"],
    ["out over x", [x, weight, { out: x }], "out must not overlap x"],
    ["out over bits", [x, weight, { out: new Uint16Array(20) }], "out must be a Float32Array"],
    ["stateOut over x", [x, weight, { stateOut: x.subarray(0, 6) }], "stateOut must not overlap x"],
    ["options that are none", [x, weight, new Float32Array(2)], "options must be an object"],
  ])("%s", async (_, operands, requirement) => {
    using conv = await create({});
    const message = await refusal(() => conv.forward(...(operands as [never, never, never])));
    expect(message).toContain("depthwise.forward");
    expect(message).toContain(requirement);
  });

  test("a row that the filter does not fit on", async () => {
    using conv = await create({ padding: [1, 0] });
    const message = await refusal(() => conv.forward(new Float32Array(4), weight));
    expect(message).toContain("a row with its padding must be at least 4 samples long");
    expect(message).toContain("2 samples with 1 zeros before and 0 after");
    expect(() => conv.outputLength(2)).toThrow(InvalidArgumentError);
    expect(conv.outputLength(3)).toBe(1);
  });

  test("state with a padding that does not stream", async () => {
    using conv = await create({ padding: "same" });
    const state = new Float32Array(6);
    expect(await refusal(() => conv.forward(x, weight, { state }))).toContain("padding 'causal'");
    expect(() => conv.createState(1)).toThrow("padding 'causal'");
  });

  test("dy of another length", async () => {
    using conv = await create({});
    const message = await refusal(() => conv.backward(new Float32Array(18), x, weight));
    expect(message).toContain("depthwise.backward: dy must hold 20 samples");
  });

  test.each([
    ["weight", [3, 2], {}, "weight must have shape (H, K) = [2, 3]; got [3, 2]"],
    ["weight", [2, 3, 1], {}, "weight must have shape (H, 1, K) = [2, 1, 3]; got [2, 3, 1]"],
    ["dy", [1, 10, 2], {}, "dy must have shape (B, H, Lout) = [1, 2, 10]; got [1, 10, 2]"],
    ["dy", [2, 2, 5], {}, "dy must have shape (B, H, Lout) = [1, 2, 10]; got [2, 2, 5]"],
    ["dy", [1, 2, 10], { layout: "BLH" }, "dy must have shape (B, Lout, H) = [1, 10, 2]"],
    ["state", [1, 1, 4], {}, "state must have shape (B, H, K − 1) = [1, 2, 2]; got [1, 1, 4]"],
  ] as const)("%s of shape %o, %o", async (name, shape, options, requirement) => {
    using conv = await create({ kernelLength: 3, ...options });
    const length = shape.reduce<number>((a, b) => a * b, 1);
    const odd = { data: new Float32Array(length).fill(1), shape };
    const blh = "layout" in options;
    const given = {
      ...{ x: { data: x, shape: blh ? [1, 10, 2] : [1, 2, 10] }, weight: new Float32Array(6) },
      ...{ dy: x, state: undefined, [name]: odd },
    };
    const message = await refusal(() =>
      conv.backward(given.dy, given.x, given.weight, { state: given.state }),
    );
    expect(message).toContain(`depthwise.backward: ${requirement}`);
  });

  test("sizes that are differences stand in parentheses", async () => {
    using conv = await create({});
    const message = await refusal(() => conv.forward(x, weight, { state: new Float32Array(5) }));
    expect(message).toContain("state must hold 6 samples (B·H·(K − 1))");
  });

  test("operands of the projections that are none", async () => {
    const options = { channels: 1, kernelLength: 3, ...simd };
    using projections = await FlashHyenaProjections.create(options);
    const packed = new Float32Array(12);
    const taps = new Float32Array(9);
    const none = undefined as never;
    for (const [action, requirement] of [
      [() => projections.backward(none, packed, taps), "backward: the upstream gradients must be"],
      [() => projections.backward({} as never, packed, taps), "backward: dgated must be"],
      [() => projections.forward(packed, taps, null as never), "forward: options must be an"],
      [() => projections.forward(packed, taps, { out: packed as never }), "forward: out must be"],
      [() => projections.forward(packed, taps, { out: { gate: x } as never }), "forward: out may"],
    ] as const) {
      expect(await refusal(action)).toContain(`projections.${requirement}`);
    }
    for (const [odd, requirement] of [
      [[new Float32Array(10), taps], "x must have 3 channels in each of 1 batch items"],
      [[new Float32Array(10), taps], "Pass shape (B, 3H, L)"],
      [[packed, new Float32Array(3)], "weight must hold 9 samples (3H·K)"],
    ] as const) {
      expect(await refusal(() => projections.forward(...odd))).toContain(requirement);
    }
    using conv = await create({});
    const refused = await refusal(() => conv.forward(x, weight, null as never));
    expect(refused).toContain("depthwise.forward: options must be an object");
  });

  test("anything after dispose", async () => {
    const conv = await create({});
    conv.dispose();
    conv.dispose();
    expect(await refusal(() => conv.forward(x, weight))).toContain("not been disposed");
    expect(await refusal(() => conv.backward(x, x, weight))).toContain("not been disposed");
    expect(() => conv.allocateInput(1, 1)).toThrow("not been disposed");
  });
});

describe("arrays", () => {
  test("tensors with a shape may have any batch", async () => {
    for (const [layout, shape] of [
      ["BHL", [3, 2, 5]],
      ["BLH", [3, 5, 2]],
    ] as const) {
      using conv = await create({ layout });
      const data = Float32Array.from({ length: 30 }, (_, i) => Math.sin(i));
      const weight = Float32Array.from({ length: 8 }, (_, i) => Math.cos(i));
      const y = (await conv.forward({ data, shape }, weight)) as Float32Array;
      for (let b = 0; b < 3; b++) {
        const alone = await conv.forward(data.subarray(10 * b, 10 * b + 10), weight);
        expectSameBits(y.slice(10 * b, 10 * b + 10), alone);
      }
    }
  });

  test("weights (H, 1, K) of a torch.nn.Conv1d serve as they are", async () => {
    using conv = await create({});
    const data = Float32Array.from({ length: 8 }, (_, i) => Math.cos(i));
    const x = Float32Array.from({ length: 20 }, (_, i) => Math.sin(i));
    const y = await conv.forward(x, data);
    expectSameBits(await conv.forward(x, { data, shape: [2, 4] }), y);
    expectSameBits(await conv.forward(x, { data, shape: [2, 1, 4] }), y);
  });

  test("every operand and every result may come with its shape", async () => {
    for (const [layout, shapeOf] of [
      ["BHL", (h: number, n: number) => [2, h, n]],
      ["BLH", (h: number, n: number) => [2, n, h]],
    ] as const) {
      const wave = (count: number) => Float32Array.from({ length: count }, (_, i) => Math.sin(i));
      const given = (h: number, n: number) => ({ data: wave(2 * h * n), shape: shapeOf(h, n) });
      const into = (h: number, n: number) => ({
        ...given(h, n),
        data: new Float32Array(2 * h * n),
      });
      using conv = await create({ layout });
      const [x, weight, dy] = [given(2, 5), { data: wave(8), shape: [2, 4] }, given(2, 5)];
      const operands = { bias: { data: wave(2), shape: [2] }, state: given(2, 3) };
      const [out, stateOut, dx] = [into(2, 5), into(2, 3), into(2, 5)];
      const y = await conv.forward(x, weight, operands);
      expect(await conv.forward(x, weight, { ...operands, out, stateOut })).toBe(out.data);
      expectSameBits(out.data, y);
      expect([...stateOut.data].every((v) => v === 0)).toBe(false);
      const behind = { ...operands, dstateOut: given(2, 3) };
      const gradients = await conv.backward(dy, x, weight, behind);
      const written = await conv.backward(dy, x, weight, { ...behind, out: { dx } });
      expect(written.dx).toBe(dx.data);
      expectSameBits(written, gradients);
      const settings = { channels: 1, kernelLength: 4, layout, ...simd };
      using projections = await FlashHyenaProjections.create(settings);
      const packed = given(3, 5);
      const taps = { data: wave(12), shape: [3, 4] };
      const results = { gated: into(1, 5), postgate: into(1, 5) };
      const both = await projections.forward(packed, taps);
      const same = await projections.forward(packed, taps, { out: results });
      expect([same.gated, same.postgate]).toEqual([results.gated.data, results.postgate.data]);
      expectSameBits(same, both);
      const odd = { ...out, shape: shapeOf(5, 2) };
      const refused = await refusal(() => conv.forward(x, weight, { out: odd }));
      expect(refused).toContain(
        `out must have shape (${layout === "BHL" ? "B, H, Lout" : "B, Lout, H"})`,
      );
    }
  });

  test("workspaceBytes, as in FlashFFTConv; the CPU ignores it", async () => {
    using conv = await create({ workspaceBytes: 2 ** 20 });
    expect(await conv.forward(new Float32Array(20), new Float32Array(8))).toHaveLength(20);
  });

  test("taps are those of a correlation: the last meets the newest sample", async () => {
    using conv = await create({ channels: 1 });
    const y = await conv.forward(Float32Array.of(1, 0, 0, 0, 0), Float32Array.of(1, 2, 3, 4), {
      bias: Float32Array.of(10),
    });
    expect([...(y as Float32Array)]).toEqual([14, 13, 12, 11, 10]);
  });

  test("lent arrays work beside ordinary ones, and memory comes back with dispose", async () => {
    const { arena } = openCpu({ instructions: "simd", shared: true }, "test");
    const before = arena.used;
    const conv = await create({});
    const x = conv.allocateInput(1, 100) as Float32Array;
    x.forEach((_, i) => {
      x[i] = Math.sin(i);
    });
    expect(conv.backend!.arena.owns(x.buffer)).toBe(true);
    const weight = Float32Array.from({ length: 8 }, (_, i) => Math.cos(i));
    const y = await conv.forward(x, weight);
    const out = conv.allocateOutput(1, 100);
    expectSameBits(Float32Array.from((await conv.forward(x, weight, { out })) as Float32Array), y);
    expectSameBits(await conv.forward(x.slice(), weight), y);
    expect(arena.used).toBeGreaterThan(before);
    conv.dispose();
    await Promise.resolve();
    expect(arena.used).toBe(before);
  });

  test("work memory does not grow with the sequence", async () => {
    const conv = await create({ channels: 1, activation: "silu" });
    const weight = Float32Array.of(1, 2, 3, 4);
    const bytes = [];
    for (const length of [2 ** 16, 2 ** 21]) {
      const x = new Float32Array(length);
      await conv.forward(x, weight);
      await conv.backward(x, x, weight);
      // Another object's end takes its turn and no memory.
      await conv.backend!.exclusive(() => {});
      bytes.push(conv.backend!.workspaceBytes);
    }
    expect(bytes[0]).toBeGreaterThan(0);
    expect(bytes[1]).toBe(bytes[0]);
    conv.dispose();
  });

  test("an array transferred away while the call waits is named", async () => {
    using conv = await create({});
    const x = new Float32Array(20);
    const weight = new Float32Array(8);
    const first = conv.backward(x.slice(), x.slice(), weight);
    const second = conv.forward(x, weight);
    structuredClone(x, { transfer: [x.buffer] });
    await first;
    expect(await refusal(() => second)).toContain("x must keep its buffer");
  });
});
