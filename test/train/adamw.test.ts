/** AdamW against its definition in float64, clipping, groups, averages; steps that overflow. */
import { describe, expect, test } from "vitest";
import type { ModelMachine } from "../../src/nn/machine.ts";
import { Model } from "../../src/nn/model.ts";
import { ModelProgram } from "../../src/nn/program.ts";
import { relativeError } from "../../src/reference/convolution.ts";
import type { AdamWOptions } from "../../src/train/adamw.ts";
import { AdamW } from "../../src/train/adamw.ts";
import { Float64Machine } from "../support/float64-machine.ts";
import { drawn, machinesUnderTest } from "../support/machines.ts";

const machines = [
  {
    name: "float64",
    tolerance: 1e-6,
    open: async (): Promise<ModelMachine> => new Float64Machine(),
  },
  ...machinesUnderTest,
];

/** Weights of several rows of an arena, a matrix among them. */
const tree = () => ({
  matrix: drawn([20, 30], 1),
  deep: { vector: drawn([7], 2), slow: drawn([300], 3), table: drawn([3, 5, 2], 4) },
  fixed: { ...drawn([4, 4], 5), frozen: true },
});
type Arrays = Map<string, Float32Array>;

const options = {
  ...{ betas: [0.9, 0.98], eps: 1e-6, decay: 0.1, clip: 3, average: 0.8, microBatches: 2 },
  groups: (path: string) => (path === "deep.slow" ? { rate: 0.25, decay: 0.3 } : undefined),
} as const satisfies AdamWOptions;

/** The rules of PyTorch's AdamW and clip_grad_norm_, one number after another. */
class Reference {
  readonly weights: ReadonlyMap<string, Float64Array>;
  readonly average: ReadonlyMap<string, Float64Array>;
  readonly #moments: ReadonlyMap<string, [Float64Array, Float64Array]>;
  #step = 0;

  constructor(model: Model) {
    const places = [...model.places];
    const copy = () =>
      new Map(places.map(([p, { weight }]) => [p, Float64Array.from(weight.data)]));
    this.weights = copy();
    this.average = copy();
    const zeros = (n: number) => new Float64Array(n);
    this.#moments = new Map(
      places.map(
        ([
          p,
          {
            weight: { data },
          },
        ]) => [p, [zeros(data.length), zeros(data.length)]],
      ),
    );
  }

  step(
    gradients: Arrays,
    rate: number,
    o: Required<Pick<AdamWOptions, "betas" | "eps" | "clip" | "average" | "microBatches">>,
  ): number {
    this.#step += 1;
    const t = this.#step;
    let square = 0;
    for (const values of gradients.values())
      for (const d of values) square += (d / o.microBatches) ** 2;
    const norm = Math.sqrt(square);
    const factor = Math.min(1, o.clip / (norm + 1e-6)) / o.microBatches;
    for (const [path, weight] of this.weights) {
      if (path === "fixed") continue;
      const slow = path === "deep.slow";
      const own = slow ? 0.25 * rate : rate;
      const decay = slow ? 0.3 : path === "matrix" || path === "deep.table" ? 0.1 : 0;
      const [m, v] = this.#moments.get(path)!;
      for (let i = 0; i < weight.length; i++) {
        const d = gradients.get(path)![i]! * factor;
        weight[i]! *= 1 - own * decay;
        m[i] = o.betas[0] * m[i]! + (1 - o.betas[0]) * d;
        v[i] = o.betas[1] * v[i]! + (1 - o.betas[1]) * d * d;
        const spread = Math.sqrt(v[i]!) / Math.sqrt(1 - o.betas[1] ** t) + o.eps;
        weight[i]! -= ((own / (1 - o.betas[0] ** t)) * m[i]!) / spread;
        const average = this.average.get(path)!;
        average[i] = o.average * average[i]! + (1 - o.average) * weight[i]!;
      }
    }
    return norm;
  }
}

const gradientsOf = (model: Model, step: number, scale = 1): Arrays =>
  new Map(
    [...model.places]
      .filter(([, { weight }]) => !weight.frozen)
      .map(([path, { weight }], i) => [path, drawn(weight.shape, 100 * step + i, scale).data]),
  );

function expectAlike(found: Arrays, wanted: ReadonlyMap<string, Float64Array>, tolerance: number) {
  for (const [path, values] of wanted)
    expect(relativeError(found.get(path)!, values), path).toBeLessThan(tolerance);
}

describe.each(machines)("$name", ({ open, tolerance }) => {
  test("ten steps are PyTorch's, with groups, clipping, micro-batches and an average", async () => {
    const machine = await open();
    const model = await Model.create(machine, tree());
    const half = machine.storage === "float16";
    if (half) await model.arena("half", "test");
    const reference = new Reference(model as Model);
    const optimiser = await AdamW.create(model, options);
    // The scale of float16 gradients: what they were multiplied with is divided out again.
    const { scale = 1 } = half ? { scale: 2 ** 16 } : {};
    for (let step = 1; step <= 10; step++) {
      // Norms from half of the clip's to many times as much.
      const size = 0.05 * 1.5 ** step;
      const gradients = gradientsOf(model as Model, step, size);
      await model.write(
        new Map([...gradients].map(([p, g]) => [p, g.map((d) => d * scale)])),
        "gradient",
      );
      const rate = 0.01 * step;
      await optimiser.step(step, rate, step === 8);
      const norm = reference.step(gradients, rate, options);
      const facts = await optimiser.facts();
      expect(Math.abs(facts.norm / norm - 1)).toBeLessThan(1e-5);
      expect([facts.counted, facts.skipped, facts.halted]).toEqual([
        step < 8 ? step : step - 7,
        0,
        0,
      ]);
    }
    // All but the mixed machine's halves are float32.
    const close = Math.min(tolerance, 1e-5);
    expectAlike(await model.read("parameter"), reference.weights, close);
    expectAlike(await model.read("average"), reference.average, close);
    expect(
      Math.max(...[...(await model.read("gradient")).values()].map((d) => Math.hypot(...d))),
    ).toBe(0);
    // Each part of the rule counts.
    for (const other of [
      { eps: 1e-3 },
      { clip: 4 },
      { betas: [0.9, 0.97] },
      { microBatches: 3 },
    ] as const) {
      const mutant = new Reference((await Model.create(new Float64Machine(), tree())) as Model);
      for (let step = 1; step <= 10; step++)
        mutant.step(gradientsOf(model as Model, step, 0.05 * 1.5 ** step), 0.01 * step, {
          ...options,
          ...other,
        });
      expect(() => expectAlike(mutant.weights as never, reference.weights, close)).toThrow();
    }
    optimiser.dispose();
    model.dispose();
    machine.dispose();
  });

  test("a gradient that is not finite halts the optimiser before it touches anything", async () => {
    const machine = await open();
    const model = await Model.create(machine, tree());
    const optimiser = await AdamW.create(model, { growthInterval: 3 });
    const mixed = machine.storage === "float16";
    const step = async (n: number, value: number): Promise<void> => {
      const gradients = gradientsOf(model as Model, n);
      gradients.get("deep.table")![17] = value;
      await model.write(gradients, "gradient");
      await optimiser.step(n, 0.01, true);
    };
    const arenas = async () => [
      await model.read(),
      await model.read("moment"),
      await model.read("square"),
    ];
    await step(1, 1);
    const before = await arenas();
    const scales: number[] = [];
    const skipped: number[] = [];
    const record = async () => {
      const { scale, skipped: count } = await optimiser.facts();
      scales.push(Math.log2(scale));
      skipped.push(count);
    };
    await record();
    for (const [i, value] of [
      Number.NaN,
      Number.POSITIVE_INFINITY,
      Number.NEGATIVE_INFINITY,
    ].entries()) {
      await step(2 + i, value);
      await record();
      expect(await arenas()).toEqual(before);
      const left = await model.read("gradient");
      expect([...left.values()].every((d) => d.every((x) => x === 0))).toBe(true);
    }
    for (let n = 5; n <= 8; n++) {
      await step(n, 1);
      await record();
    }
    if (mixed) {
      // Halved three times, doubled after three good steps.
      expect(scales).toEqual([16, 15, 14, 13, 13, 13, 14, 14]);
      expect(skipped).toEqual([0, 1, 1, 1, 0, 0, 0, 0]);
      expect(await arenas()).not.toEqual(before);
      const { correction1 } = await optimiser.facts();
      expect(correction1).toBeCloseTo(1 - 0.9 ** 5, 5);
      // At the lowest scale it halts too.
      for (let n = 9; n < 9 + 14; n++) await step(n, Number.NaN);
      expect((await optimiser.facts()).halted).toBe(0);
      await step(40, Number.NaN);
      expect((await optimiser.facts()).halted).toBe(40);
    } else {
      // In float32 nothing is wrong with a scale: the first such step is the last.
      expect(scales).toEqual([0, 0, 0, 0, 0, 0, 0, 0]);
      expect((await optimiser.facts()).halted).toBe(2);
      expect(await arenas()).toEqual(before);
    }
    optimiser.dispose();
    model.dispose();
    machine.dispose();
  });
});

test("a loss that is added up is the mean over micro-batches and steps", async () => {
  const machine = new Float64Machine();
  const model = await Model.create(machine, tree());
  const { addLoss } = await import("../../src/train/adamw.ts");
  const program = await ModelProgram.compile(
    model,
    { x: { shape: [], storage: "float32" } },
    (_, { x }, tape) => {
      addLoss(tape, x);
      return {};
    },
  );
  const optimiser = await AdamW.create(model, { microBatches: 2 });
  const losses: number[] = [];
  for (let step = 1; step <= 6; step++) {
    for (const x of [step, step + 1]) {
      program.write("x", Float32Array.of(x));
      await program.run();
    }
    await optimiser.step(step, 0, step === 4);
    const { loss, counted } = await optimiser.facts();
    losses.push(loss / counted);
  }
  expect(losses).toEqual([1.5, 2, 2.5, 4.5, 5, 5.5]);
});

test.each([
  [{ betas: [0.9, 1] }, "betas and average must be from 0 to below 1"],
  [{ average: -1 }, "betas and average"],
  [{ eps: 0 }, "eps must be above 0"],
  [{ clip: 0 }, "clip must be above 0"],
  [{ decay: Number.NaN }, "decay must be 0 or more"],
  [{ microBatches: 1.5 }, "microBatches must be an integer"],
  [{ rate: 1 }, "options may have betas"],
  [{ groups: () => ({ rate: -1 }) }, "rate and decay of matrix must be 0 or more"],
])("%o is refused", async (wrong, message) => {
  const model = await Model.create(new Float64Machine(), tree());
  await expect(AdamW.create(model, wrong as never)).rejects.toThrow(message);
});
