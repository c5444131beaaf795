/** Gold files: what PyTorch computed of small models (test/gold). */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect } from "vitest";
import { openSafetensors } from "../../src/formats/safetensors.ts";
import { float32Of } from "../../src/formats/stored.ts";
import type { HyenaLMConfig } from "../../src/models/hyena-lm.ts";
import type { LongConvClassifierOf, LongConvConfig } from "../../src/models/long-conv.ts";
import { longConvWeights } from "../../src/models/long-conv.ts";
import { type Naming, readWeights } from "../../src/models/published.ts";
import type { Weight } from "../../src/nn/parameters.ts";
import { relativeError } from "../../src/reference/convolution.ts";

/** The path of a gold file. */
export const goldPath = (name: string): string =>
  fileURLToPath(new URL(`../gold/files/${name}`, import.meta.url));

/** Tensors by name. */
export type GoldTensors = ReadonlyMap<string, { shape: readonly number[]; data: Float32Array }>;

/** All tensors of a gold file. */
export async function goldTensors(name: string): Promise<GoldTensors> {
  const file = await openSafetensors(goldPath(`${name}.safetensors`));
  const read = [...file.tensors].map(async ([key, tensor]) => {
    return [key, { shape: tensor.shape, data: await float32Of(tensor) }] as const;
  });
  const tensors = new Map(await Promise.all(read));
  await file.close();
  return tensors;
}

interface Facts {
  readonly config: Readonly<Record<string, number | boolean>>;
  readonly ids: number[][][];
  readonly labels: number[][];
  readonly loss: number;
  readonly losses: number[];
  readonly loss_after: number;
  readonly generation: { readonly prompt: number[]; readonly tokens: number[] };
  readonly optimiser: {
    readonly betas: [number, number];
    readonly eps: number;
    readonly clip: number;
    readonly schedule: number[];
    readonly groups: Readonly<
      Record<
        string,
        { readonly lr: number; readonly weight_decay: number; readonly names: string[] }
      >
    >;
  };
}

/** What a model's JSON file says. */
export const goldFacts = (name: string): Facts =>
  JSON.parse(readFileSync(goldPath(`${name}.json`), "utf8"));

/** A language model's configuration in our words. */
export function goldLM({ config }: Pick<Facts, "config">): HyenaLMConfig {
  const c = config as Record<string, number>;
  return {
    ...{ width: c.width!, layers: c.layers!, inner: c.inner!, maxLength: c.length! },
    ...{ features: c.features!, filterWidth: c.filter_width!, frequency: c.frequency! },
    ...{ shift: c.shift!, order: c.order!, tied: Boolean(c.tied), trainsPositions: true },
    ...{ normEpsilon: 1e-5, dropout: 0, recompute: false },
    vocabulary: Math.ceil(c.vocabulary! / c.padding!) * c.padding!,
  };
}

/** A classifier's. */
export const goldLongConv = ({ config }: Pick<Facts, "config">): LongConvConfig =>
  ({ ...config, kernelDropout: 0, dropout: 0 }) as unknown as LongConvConfig;

/** Arrays by name are near those of a gold file: all of them, each relative to its size. */
export function expectNear(
  found: ReadonlyMap<string, Float32Array>,
  wanted: ReadonlyMap<string, Float32Array>,
  tolerance: number,
): void {
  const far = [...wanted].flatMap(([name, values]) => {
    const data = found.get(name);
    const error = data?.length === values.length ? relativeError(data, values) : Number.NaN;
    return error <= tolerance ? [] : [`${name}: ${error}`];
  });
  expect(far).toEqual([]);
}

/** Names of a classifier's weights, as the examples of long convolutions have them. */
export const longConvNaming: Naming = {
  names: [
    [/^layers\.(\d+)\.norm\./, "norms.$1."],
    [/^layers\./, "conv_layers."],
    [/\.skip$/, ".D"],
    [/\.outProjection\./, ".output_linear.0."],
  ],
  aliases: [],
  ones: [[/\.(?:D|kernel)$/, (shape) => [1, ...shape]]],
  implied: /$^/,
};

/** A classifier's weights. */
export const readLongConv = (
  path: string,
  c: LongConvConfig,
): Promise<LongConvClassifierOf<Weight>> =>
  readWeights(path, longConvWeights(c, "zeros"), longConvNaming);
