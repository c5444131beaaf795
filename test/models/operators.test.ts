/** Hyena operators of order 2 and 3 against PyTorch's: the result, and the gradients of Σ result ⊙ cotangent. */
import { describe, test } from "vitest";
import { blockWeights, type HyenaConfig, hyena } from "../../src/models/hyena.ts";
import { Initial } from "../../src/models/initial.ts";
import { hyenaNaming, publishedWeight } from "../../src/models/published.ts";
import { rowsOver } from "../../src/nn/operations/rows.ts";
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
    const machine = await open();
    const found = await runCase(machine, {
      ...{ weights, inputs: { cotangent: { shape, storage: "float32" } } },
      values: { cotangent: part("cotangents").get("y")! },
      body: (p: { x: TapeTensor; mixer: never }, inputs: { cotangent: TapeTensor }) => {
        const result = hyena(p.x, p.mixer, c);
        return { y: result, loss: alongside(result, inputs.cotangent) };
      },
    } as never);
    expectNear(new Map([["y", found.outputs.y!]]), new Map([["y", y]]), 1e-5);
    const gradients = new Map([...found.gradients].map(([path, d]) => [nameOf(path), d]));
    expectNear(gradients, part("gradients"), 3e-6);
    machine.dispose();
  });
});

/** Σ y ⊙ cotangent, whose gradient is the cotangent as it is. */
function alongside(y: TapeTensor, cotangent: TapeTensor): TapeTensor {
  const { tape } = y;
  const loss = tape.tensor([], "float32");
  const rows = rowsOver(y);
  const { g, along } = rows;
  rows.total(loss, along.sum(g.mul(rows.cell(y), rows.cell(cotangent))));
  rows.run();
  tape.operation({ inputs: [y], outputs: [loss], gradient: () => [cotangent] });
  return loss;
}

function mixerWeights(c: HyenaConfig) {
  const { mixer } = blockWeights(c, new Initial("zeros"));
  return { mixer };
}
