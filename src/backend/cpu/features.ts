/** What the runtime offers: SIMD, relaxed SIMD, shared memory, cores. Probed by compiling four-line modules. */
import {
  name,
  op,
  section,
  simd,
  splatFloat,
  v128,
  v128Type,
  vector,
} from "../../kernels/cpu/print/wasm-encode.ts";

import { nodeModule } from "../../node.ts";

/** How kernels are printed for this runtime, best first. */
export type Instructions = "relaxed-simd" | "simd" | "javascript";

/** Offers of the runtime. */
export interface Features {
  readonly simd: boolean;
  readonly relaxedSimd: boolean;
  /** Memory that threads can share: absent in pages that are not cross-origin isolated. */
  readonly sharedMemory: boolean;
  readonly cores: number;
  /** Bytes of address space that the process may have. */
  readonly addressSpace: number;
}

/** A module with one function of the given body that leaves a vector. */
function valid(body: readonly number[]): boolean {
  const code = [0, ...body, op.end];
  const bytes = Uint8Array.from([
    ...[0x00, 0x61, 0x73, 0x6d, 1, 0, 0, 0],
    ...section(1, vector([[0x60, 0, 1, v128Type]])),
    ...section(3, vector([[0]])),
    ...section(7, vector([[...name("f"), 0, 0]])),
    ...section(10, vector([[code.length, ...code]])),
  ]);
  return typeof WebAssembly === "object" && WebAssembly.validate(bytes);
}

let probed: Features | undefined;

/** Probe once. */
export function features(): Features {
  if (probed) return probed;
  const one = splatFloat(1);
  const isolated = (globalThis as { crossOriginIsolated?: boolean }).crossOriginIsolated;
  probed = {
    simd: valid(one),
    relaxedSimd: valid([...one, ...one, ...one, ...simd(v128.relaxedMadd)]),
    sharedMemory: typeof SharedArrayBuffer === "function" && isolated !== false,
    cores: cores(),
    addressSpace: addressSpace(),
  };
  return probed;
}

/** Linux tells what `ulimit -v` grants. */
function addressSpace(): number {
  try {
    const limits = nodeModule("node:fs")!.readFileSync("/proc/self/limits", "utf8");
    return Number(/^Max address space +(\d+)/m.exec(limits)?.[1] ?? Number.POSITIVE_INFINITY);
  } catch {
    return Number.POSITIVE_INFINITY;
  }
}

function cores(): number {
  const navigator = (globalThis as { navigator?: { hardwareConcurrency?: number } }).navigator;
  return nodeModule("node:os")?.availableParallelism() ?? navigator?.hardwareConcurrency ?? 1;
}
