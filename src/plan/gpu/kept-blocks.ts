/**
 * What a pattern of frequencies leaves of a plan's passes. Modulo x^N − 1 the stages of radices r₁, r₂, … sort the N bins
 * by residues: block p₁·r₂·r₃⋯ + p₂·r₃⋯ + … has the bins f ≡ j₁ + r₁·(j₂ + r₂·(j₃ + …)), as fine as the radices go, where j
 * is the digit at place p.
 */

import { product } from "../cpu/plan.ts";
import type { KeptFrequencies } from "../frequencies.ts";
import { keptRuns } from "../frequencies.ts";
import type { PassPlan } from "./passes.ts";
import { digitAt, placeOfSlot } from "./passes.ts";

/** The residues of the bins of the blocks that these radices have left, in order. */
function residuesOf(radices: readonly number[]): Int32Array {
  let residues = new Int32Array(1);
  let below = 1;
  for (const radix of radices) {
    const finer = new Int32Array(residues.length * radix);
    for (let p = 0; p < radix; p++) {
      const digit = below * digitAt(p, radix);
      for (let b = 0; b < residues.length; b++) finer[b * radix + p] = residues[b]! + digit;
    }
    residues = finer;
    below *= radix;
  }
  return residues;
}

/** Residues modulo some number that keep a bin. */
interface Residues {
  /** 1 for each that does. */
  readonly flags: Uint8Array;
  /** The share of them. */
  readonly share: number;
}

/** By pattern, those modulo the numbers that plans of one problem ask for. */
const known = new WeakMap<KeptFrequencies, Map<number, Residues>>();

/** Residues modulo `modulus`, a divisor of N. */
function keptResidues(kept: KeptFrequencies, modulus: number): Residues {
  const all = known.get(kept) ?? new Map<number, Residues>();
  known.set(kept, all);
  let residues = all.get(modulus);
  if (!residues) {
    const flags = residueFlags(kept, modulus);
    residues = { flags, share: shareOf(flags) };
    all.set(modulus, residues);
  }
  return residues;
}

/** 1 for each residue that keeps a bin: half of all bins are mirrors of the others. */
function residueFlags(kept: KeptFrequencies, modulus: number): Uint8Array {
  const flags = new Uint8Array(modulus);
  const mark = (from: number, count: number): void => {
    const at = from % modulus;
    flags.fill(1, at, at + count);
    flags.fill(1, 0, Math.max(0, Math.min(at, at + count - modulus)));
  };
  const runs = keptRuns(kept);
  for (let i = 0; i < runs.length; i += 2) {
    const count = runs[i + 1]! - runs[i]!;
    mark(runs[i]!, count);
    mark(kept.period - runs[i + 1]! + 1, count);
  }
  return flags;
}

function shareOf(flags: Uint8Array): number {
  let sum = 0;
  for (const flag of flags) sum += flag;
  return sum / flags.length;
}

/** For each block that these radices have left, in order, 1 where it keeps a bin. */
export function keptBlocks(kept: KeptFrequencies, radices: readonly number[]): Uint8Array {
  const { flags } = keptResidues(kept, product(radices));
  const residues = residuesOf(radices);
  return flags.map((_, block) => flags[residues[block]!]!);
}

/** For the blocks of each pass, and for the points of a transform in work memory, 1 where they keep a bin. */
export function keptByPass(kept: KeptFrequencies, plan: PassPlan): Uint8Array[] {
  const { passes, packing } = plan;
  const radices = passes.map((p) => p.radices);
  return [...passes, undefined].map((_, i) => {
    const all = keptBlocks(kept, radices.slice(0, i).flat());
    if (packing !== "neighbours" || i === 0) return all;
    const rows = product(radices[0]!);
    const within = all.length / rows;
    const slots = new Uint8Array((rows / 2 + 1) * within);
    for (let slot = 0; slot <= rows / 2; slot++) {
      const from = placeOfSlot(slot, rows) * within;
      slots.set(all.subarray(from, from + within), slot * within);
    }
    return slots;
  });
}

/** The share of the blocks of each pass that keep a bin; 1 without a pattern. */
export function keptShares(plan: PassPlan, kept: KeptFrequencies | undefined): number[] {
  if (!kept) return plan.passes.map(() => 1);
  const rows = product(plan.passes[0]!.radices);
  let blocks = 1;
  return plan.passes.map(({ radices }, i) => {
    const residues = keptResidues(kept, blocks);
    const real = plan.packing === "neighbours" && i > 0;
    const share = real ? realShare(residues.flags, rows) : residues.share;
    blocks *= product(radices);
    return share;
  });
}

/** The share of residues that keep a bin, of those that are 0 … rows/2 modulo `rows`. */
function realShare(flags: Uint8Array, rows: number): number {
  let sum = 0;
  for (let f = 0; f < flags.length; f++) if (f % rows <= rows / 2) sum += flags[f]!;
  return sum / ((flags.length / rows) * (rows / 2 + 1));
}
