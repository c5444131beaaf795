/** Every operation: values and gradients against float64, and the gradients in float64 against central differences. */
import { describe, expect, test } from "vitest";
import type { ModelMachine } from "../../src/nn/machine.ts";
import { activation, add, dropout, glu, multiplied } from "../../src/nn/operations/elementwise.ts";
import { embedding } from "../../src/nn/operations/embedding.ts";
import { hyenaFilter } from "../../src/nn/operations/hyena-filter.ts";
import { linear, mlp } from "../../src/nn/operations/linear.ts";
import { longConv, projections, shortConv } from "../../src/nn/operations/long-convolution.ts";
import { crossEntropy, meanSquaredError } from "../../src/nn/operations/loss.ts";
import { layerNorm, rmsNorm } from "../../src/nn/operations/norm.ts";
import { meanPool } from "../../src/nn/operations/pool.ts";
import { recompute } from "../../src/nn/operations/recompute.ts";
import { split } from "../../src/nn/operations/split.ts";
import { skipTap, squash } from "../../src/nn/operations/squash.ts";
import { toChannels, toRows } from "../../src/nn/operations/transpose.ts";
import type { Weights } from "../../src/nn/parameters.ts";
import type { TapeTensor } from "../../src/nn/tape.ts";
import { onGpu } from "../support/backends.ts";
import { Float64Machine } from "../support/float64-machine.ts";
import type { Case, Found } from "../support/machines.ts";
import {
  drawn,
  expectClose,
  expectDifferences,
  machinesUnderTest,
  runCase,
} from "../support/machines.ts";

const [B, L, D] = [2, 12, 8];
const target = (shape: readonly number[]) => ({
  inputs: { target: { shape, storage: "float32" as const } },
  values: { target: drawn(shape, 99).data },
});

/** y compared with a target of its shape. */
function toTarget<Tree extends Weights>(
  weights: Tree,
  shape: readonly number[],
  y: (p: never, tensors: { target: TapeTensor }) => TapeTensor,
): Case {
  return {
    ...{ weights, ...target(shape) },
    body: (p, inputs) => {
      const tensors = inputs as unknown as { target: TapeTensor };
      const result = y(p as never, tensors);
      return { y: result, loss: meanSquaredError(result, tensors.target) };
    },
  } as Case;
}

type P = Record<string, TapeTensor>;
const ids = Uint32Array.from({ length: B * L }, (_, i) => (i * 5 + (i >> 2)) % 8);
const layer = (outputs: number, inputs: number, seed: number) => ({
  weight: drawn([outputs, inputs], seed, 1 / Math.sqrt(inputs)),
  bias: drawn([outputs], seed + 1, 0.3),
});
type Layer = { weight: TapeTensor; bias: TapeTensor };

const tokens: Case = {
  weights: { table: drawn([8, D], 1), head: drawn([8, D], 2), norm: drawn([D], 3) },
  inputs: {
    ids: { shape: [B, L], storage: "uint32" },
    labels: { shape: [B, L], storage: "uint32" },
  },
  values: { ids, labels: ids.map((id, i) => (i === 3 ? 2 ** 32 - 1 : (id + 3) % 8)) },
  body: (p, { ids, labels }) => {
    const { table, head } = p as unknown as P;
    const x = embedding(ids!, table!);
    return { x, loss: crossEntropy(x, head!, labels!, { weight: 0.5 }) };
  },
};

const sequence = { x: drawn([B, L, D], 1) };
const rows = [B, L, D];
const channels = [B, D, L];

const cases: Record<string, Case> = {
  add: toTarget({ a: drawn(rows, 1), b: drawn(rows, 2) }, rows, (p: P) => add(p.a!, p.b!)),
  "a tensor used twice": toTarget({ a: drawn(rows, 1) }, rows, ({ a }: P) =>
    add(multiplied(a!, a!), a!),
  ),
  multiply: toTarget({ a: drawn(rows, 1), b: drawn(rows, 2) }, rows, (p: P) =>
    multiplied(p.a!, p.b!),
  ),
  ...Object.fromEntries(
    (["gelu", "gelu-exact", "silu", "relu", "sigmoid"] as const).map((name) => [
      `activation ${name}`,
      toTarget(sequence, rows, ({ x }: P) => activation(x!, name)),
    ]),
  ),
  glu: toTarget({ x: drawn([B, L, 2 * D], 1) }, rows, ({ x }: P) => glu(x!)),
  "glu of silu": toTarget({ x: drawn([B, L, 2 * D], 1) }, rows, ({ x }: P) => glu(x!, "silu")),
  dropout: toTarget({ x: drawn(rows, 1), r: drawn(rows, 2) }, rows, (p: P) =>
    dropout(p.x!, 0.3, p.r),
  ),
  layerNorm: toTarget(
    { x: drawn(rows, 1, 3), weight: drawn([D], 2), bias: drawn([D], 3) },
    rows,
    ({ x, weight, bias }: P) => layerNorm(x!, { weight: weight!, bias }),
  ),
  "layerNorm in a residual": toTarget(
    { x: drawn(rows, 1), weight: drawn([D], 2), bias: drawn([D], 3) },
    rows,
    ({ x, weight, bias }: P) => add(x!, layerNorm(x!, { weight: weight!, bias })),
  ),
  rmsNorm: toTarget({ x: drawn(rows, 1), weight: drawn([D], 2) }, rows, ({ x, weight }: P) =>
    rmsNorm(x!, { weight: weight! }),
  ),
  "linear, rows to rows": toTarget(
    { ...sequence, ...layer(6, D, 5), r: drawn([B, L, 6], 9) },
    [B, L, 6],
    ({ x, r, ...p }: P) => linear(x!, p as Layer, { residual: r }),
  ),
  "linear, rows to channels": toTarget(
    { ...sequence, ...layer(6, D, 5) },
    [B, 6, L],
    ({ x, ...p }: P) => linear(x!, p as Layer, { to: "channels" }),
  ),
  "linear, channels to rows": toTarget(
    { x: drawn(channels, 1), ...layer(6, D, 5) },
    [B, L, 6],
    ({ x, ...p }: P) => linear(x!, p as Layer, { from: "channels" }),
  ),
  "linear, channels to channels": toTarget(
    { x: drawn(channels, 1), weight: drawn([6, D], 5) },
    [B, 6, L],
    ({ x, weight }: P) => linear(x!, { weight: weight! }, { from: "channels", to: "channels" }),
  ),
  mlp: toTarget(
    { ...sequence, p: { first: layer(20, D, 5), second: layer(D, 20, 7) } },
    rows,
    ({ x, p }: { x: TapeTensor; p: { first: Layer; second: Layer } }) => mlp(x, p, { residual: x }),
  ),
  recompute: toTarget(
    { ...sequence, p: { first: layer(20, D, 5), second: layer(D, 20, 7) } },
    rows,
    ({ x, p }: { x: TapeTensor; p: { first: Layer; second: Layer } }) =>
      recompute(x, (h) => dropout(mlp(h, p), 0.2, h)),
  ),
  meanPool: toTarget(sequence, [B, D], ({ x }: P) => meanPool(x!)),
  "longConv with gates": toTarget(
    {
      ...{ u: drawn(channels, 1), k: drawn([D, L], 2) },
      ...{ pregate: drawn(channels, 3), postgate: drawn(channels, 4) },
    },
    channels,
    ({ u, k, pregate, postgate }: P) => longConv(u!, k!, { pregate, postgate }),
  ),
  "longConv, bidirectional": toTarget(
    { u: drawn(channels, 1), k: drawn([D, 2 * L], 2) },
    channels,
    ({ u, k }: P) => longConv(u!, k!, { mode: "bidirectional" }),
  ),
  shortConv: toTarget(
    { x: drawn(channels, 1), weight: drawn([D, 4], 2), bias: drawn([D], 3) },
    channels,
    ({ x, weight, bias }: P) => shortConv(x!, { weight: weight!, bias }),
  ),
  projections: toTarget(
    { x: drawn([B, 3 * D, L], 1), weight: drawn([3 * D, 3], 2), bias: drawn([3 * D], 3) },
    channels,
    ({ x, weight, bias }: P) => {
      const { gated, postgate } = projections(x!, { weight: weight!, bias });
      return multiplied(gated, postgate);
    },
  ),
  hyenaFilter: toTarget(
    {
      ...{ positions: drawn([L, 5], 1), layers: [layer(6, 5, 2), layer(6, 6, 4)] },
      ...{ frequency: drawn([6], 6), last: { weight: drawn([D, 6], 7) } },
      ...{ decay: drawn([D], 8), skip: drawn([D], 9) },
    },
    [D, L],
    (p) => hyenaFilter(p, { shift: 0.05 }),
  ),
  "hyenaFilter, a part of its positions": toTarget(
    {
      ...{ positions: drawn([L, 5], 1), layers: [layer(6, 5, 2)], frequency: drawn([6], 6) },
      ...{ last: { weight: drawn([D, 6], 7) }, decay: drawn([D], 8), skip: drawn([D], 9) },
    },
    [D, 7],
    (p) => hyenaFilter(p, { length: 7 }),
  ),
  "embedding and crossEntropy": tokens,
  "crossEntropy with a bias": {
    weights: { x: drawn([B * L, D], 1), head: drawn([8, D], 2), bias: drawn([8], 3) },
    inputs: { labels: { shape: [B * L], storage: "uint32" } },
    values: { labels: ids },
    body: (p, { labels }) => {
      const { x, head, bias } = p as unknown as P;
      return { loss: crossEntropy(x!, head!, labels!, { bias }) };
    },
  },
  squash: toTarget({ k: drawn([D, L], 1) }, [D, L], ({ k }: P) => squash(k!, 0.6)),
  skipTap: toTarget({ k: drawn([D, L], 1), skip: drawn([D], 2) }, [D, L], ({ k, skip }: P) =>
    skipTap(k!, skip!),
  ),
  split: toTarget({ x: drawn([B, 4 * D, L], 1) }, channels, ({ x }: P) => {
    const [a, b, c, d] = split(x!, 4);
    return add(multiplied(a!, b!), multiplied(c!, d!));
  }),
  "toChannels and toRows": toTarget({ x: drawn(rows, 1), y: drawn(rows, 2) }, rows, (p: P) =>
    toRows(multiplied(toChannels(p.x!), toChannels(p.y!))),
  ),
};

const exact = new Map<string, Promise<Found>>();
const exactly = (name: string): Promise<Found> => {
  const found = exact.get(name) ?? runCase(new Float64Machine(), cases[name]!);
  exact.set(name, found);
  return found;
};

describe.each(machinesUnderTest)("operations on $name", ({ open, tolerance }) => {
  let machine: Promise<ModelMachine> | undefined;
  test.each(Object.keys(cases))("%s", async (name) => {
    machine ??= open();
    expectClose(await runCase(await machine, cases[name]!), await exactly(name), tolerance);
  });
});

describe.skipIf(onGpu)("gradients in float64 are slopes", () => {
  test.each(Object.keys(cases))("%s", async (name) => {
    await expectDifferences(cases[name]!, await exactly(name));
  });

  test("a wrong gradient is noticed", async () => {
    const found = await exactly("linear, rows to rows");
    const gradients = new Map(found.gradients);
    gradients.set(
      "weight",
      gradients.get("weight")!.map((g) => 1.1 * g),
    );
    await expect(
      expectDifferences(cases["linear, rows to rows"]!, { ...found, gradients }),
    ).rejects.toThrow();
  });
});

describe("the comparison rejects", () => {
  test.each(["zeros", "a shift by one", "a lost tail"])("%s", async (what) => {
    const found = await exactly("layerNorm");
    const broken = (x: Float32Array): Float32Array =>
      x.map((_, i) => {
        if (what === "zeros") return 0;
        if (what === "a shift by one") return x[(i + 1) % x.length]!;
        return i < x.length - 2 ? x[i]! : 0;
      });
    const outputs = { ...found.outputs, y: broken(found.outputs.y!) };
    expect(() => expectClose({ ...found, outputs }, found, 4e-3)).toThrow();
    const gradients = new Map(found.gradients).set("x", broken(found.gradients.get("x")!));
    expect(() => expectClose({ ...found, gradients }, found, 4e-3)).toThrow();
  });
});
