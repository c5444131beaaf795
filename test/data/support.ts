/** Files for tests of data, and what windows give. */
import { existsSync } from "node:fs";
import { fileURLToPath } from "node:url";
import type { Batch, Windows } from "../../src/data/windows.ts";

/** The path of a file beside the project, or undefined where there is none. */
export function sharedFile(name: string): string | undefined {
  const path = fileURLToPath(new URL(`../../../shared/data/${name}`, import.meta.url));
  return existsSync(path) ? path : undefined;
}

/** The next batches, so many at most. */
export async function take(windows: Windows, count: number): Promise<Batch[]> {
  const batches: Batch[] = [];
  if (count > 0) for await (const batch of windows) if (batches.push(batch) === count) break;
  return batches;
}

/** Each window of a batch: inputs and the last target. */
export function rows({ inputs, targets }: Batch, length: number): number[][] {
  return Array.from({ length: inputs.length / length }, (_, row) => [
    ...inputs.subarray(row * length, (row + 1) * length),
    targets[(row + 1) * length - 1]!,
  ]);
}

/** Whether tokens are the same, without the time that `expect` takes over many. */
export const sameTokens = (a: Uint32Array, b: Uint32Array): boolean =>
  a.length === b.length && Buffer.from(a.buffer).equals(Buffer.from(b.buffer));

export const sameBatch = (a: Batch | undefined, b: Batch | undefined): boolean =>
  a !== undefined &&
  b !== undefined &&
  sameTokens(a.inputs, b.inputs) &&
  sameTokens(a.targets, b.targets);
