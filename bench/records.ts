/** A measurement as it is kept: one JSON object a line. */
import { appendFileSync, mkdirSync, readFileSync } from "node:fs";
import { availableParallelism, cpus } from "node:os";
import { dirname } from "node:path";
import type { KeptFrequencies } from "../src/plan/frequencies.ts";
import type { Timing } from "./harness.ts";
import type { Contender, Workload } from "./workload.ts";

/** Times are medians over the rounds, of one call over all B·H rows; `ratio` is how many times faster ours is. */
export interface BenchRecord {
  readonly case: string;
  readonly mode: string;
  readonly B: number;
  readonly H: number;
  readonly L: number;
  readonly K: number;
  readonly dtype: string;
  readonly threads: number;
  /** Where the data lay: in the contenders' own memory or in the caller's arrays. */
  readonly data: string;
  readonly ours_ms: number;
  readonly ours_min_ms: number;
  /** null where nobody is compared with. */
  readonly peer: string | null;
  readonly peer_ms: number | null;
  readonly peer_min_ms: number | null;
  readonly ratio: number | null;
  readonly rel_error: number;
  readonly peer_rel_error: number | null;
  readonly plan: string;
  readonly predicted_ms: number;
  /** Work memory of ours in the last call: transforms, scratch and staging, not inputs and outputs. */
  readonly workspace_bytes?: number;
  readonly rounds: number;
  /** Gigabytes a second of what must be read and written once, by ours; short convolutions only. */
  readonly gb_per_s?: number;
  /** Frequencies that are kept, and the share of all that are not; sparse convolutions only. */
  readonly frequencies?: KeptFrequencies;
  readonly zeroed?: number;
  readonly cpu: string;
  readonly cores: number;
  readonly node: string;
  readonly instructions: string;
}

/** What all records of a run share. */
export interface Machine {
  readonly cpu: string;
  readonly cores: number;
  readonly node: string;
  readonly instructions: string;
}

export function describeMachine(instructions: string): Machine {
  const [first] = cpus();
  return {
    cpu: first?.model.trim() ?? "unknown",
    cores: availableParallelism(),
    node: process.version,
    instructions,
  };
}

/** A contender and its time. */
export interface Measured {
  readonly contender: Contender;
  readonly timing: Timing;
}

/** Four significant digits: more is noise. */
export const round = (x: number): number => Number(x.toPrecision(4));

/** The record of ours against a peer, which may be ours in another form. */
export function createRecord(
  name: string,
  workload: Pick<Workload, "batch" | "channels" | "length" | "kernelLength"> & { mode: string },
  ours: Measured,
  peer: { readonly name: string; readonly timing: Timing } | undefined,
  machine: Machine,
  dtype = "float32",
): BenchRecord {
  const { mode, batch, channels, length, kernelLength } = workload;
  return {
    case: name,
    ...{ mode, B: batch, H: channels, L: length, K: kernelLength, dtype },
    threads: ours.contender.threads,
    data: ours.contender.data,
    ours_ms: round(ours.timing.medianMs),
    ours_min_ms: round(ours.timing.minMs),
    peer: peer?.name ?? null,
    peer_ms: peer ? round(peer.timing.medianMs) : null,
    peer_min_ms: peer ? round(peer.timing.minMs) : null,
    ratio: peer ? round(peer.timing.medianMs / ours.timing.medianMs) : null,
    rel_error: round(ours.timing.error),
    peer_rel_error: peer ? round(peer.timing.error) : null,
    plan: ours.contender.plan ?? "",
    predicted_ms: round(ours.contender.predictedMs ?? 0),
    ...(ours.contender.workspaceBytes && { workspace_bytes: ours.contender.workspaceBytes() }),
    rounds: ours.timing.rounds,
    ...machine,
  };
}

export function readRecords(file: string): BenchRecord[] {
  const lines = readFileSync(file, "utf8").split("\n");
  return lines.filter((line) => line.trim() !== "").map((line) => JSON.parse(line));
}

export function appendRecords(file: string, records: readonly object[]): void {
  mkdirSync(dirname(file), { recursive: true });
  appendFileSync(file, records.map((record) => `${JSON.stringify(record)}\n`).join(""));
}
