/** Hyena operators of order 2 and 3 against PyTorch's: the result, and the gradients of Σ result ⊙ cotangent. */
import { describe, test } from "vitest";
import { blockWeights, type HyenaConfig, hyena } from "../../src/models/hyena.ts";
import { Initial } from "../../src/models/initial.ts";
import { hyenaNaming, publishedWeight } from "../../src/models/published.ts";
import { meanSquaredError } from "../../src/nn/operations/loss.ts";
import { mapWeights } from "../../src/nn/parameters.ts";
import type { TapeTensor } from "../../src/nn/tape.ts";
import { onGpu } from "../support/backends.ts";
import { expectNear, goldTensors } from "../support/gold.ts";
import { machinesUnderTest, runCase } from "../support/machines.ts";

const config: HyenaConfig = {
  ...{ width: 6, layers: 1, inner: 24, maxLength: 40, features: 5, filterWidth: 16 },
  ...{ frequency: 10, shift: 0.05, trainsPositions: true, normEpsilon: 1e-5, dropout: 0 },
  recompute: false,
};

/** A weight's name in the layers' file; x is an input. */
const nameOf = (path: string): string =>
  publishedWeight(path, [], hyenaNaming).name.replace(/^mixer\./, "");

// Sequences of 33 have no float16: row programs take two columns at a time.
const machines = machinesUnderTest.filter(({ name }) => !name.includes("mixed"));

describe.each(machines)("$name", ({ open }) => {
  test.each(onGpu ? [3] : [2, 3])("order %i", async (order) => {
    const gold = await goldTensors("layers");
    const part = (kind: string) => {
      const start = `operator${order === 2 ? "" : "-order3"}/${kind}/`;
      return new Map(
        [...gold]
          .filter(([key]) => key.startsWith(start))
          .map(([key, { data }]) => [key.slice(start.length), data]),
      );
    };
    const known = new Map([...part("parameters"), ...part("buffers"), ...part("inputs")]);
    const c = { ...config, order };
    const shape = [2, 33, 6];
    const tree = { x: { shape, data: known.get("x")! }, ...mixerWeights(c) };
    const weights = mapWeights(tree, (w, path) => ({ ...w, data: known.get(nameOf(path))! }));
    const y = part("outputs").get("y")!;
    const cotangent = part("cotangents").get("y")!;
    // The gradient of n/2 times a mean square of n numbers is their distance from the target.
    const target = y.map((value, i) => value - cotangent[i]!);
    const machine = await open();
    const found = await runCase(machine, {
      ...{ weights, inputs: { target: { shape, storage: "float32" } }, values: { target } },
      body: (p: { x: TapeTensor; mixer: never }, tensors: { target: TapeTensor }) => {
        const result = hyena(p.x, p.mixer, c);
        const loss = meanSquaredError(result, tensors.target, { weight: y.length / 2 });
        return { y: result, loss };
      },
    } as never);
    expectNear(new Map([["y", found.outputs.y!]]), new Map([["y", y]]), 1e-5);
    const gradients = new Map([...found.gradients].map(([path, d]) => [nameOf(path), d]));
    expectNear(gradients, part("gradients"), 1e-5);
    machine.dispose();
  });
});

function mixerWeights(c: HyenaConfig) {
  const { mixer } = blockWeights(c, new Initial("zeros"));
  return { mixer };
}
