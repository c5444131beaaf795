/** The paper's own cost model, Eq. 2 with matrix units: C = Σ_i [16·N·N_i/γ(N_i) + 4·N/ω(i)]. The planner's is its general form. */
import type { DeviceSpec } from "../../src/plan/device.ts";

/**
 * The paper's A100-40GB (Fu et al. 2023, Table 19 and §3.2): half-precision complex points of 4 bytes, on-chip memory
 * that holds 32K of them, matrix units for radices from 16.
 */
export const a100: DeviceSpec = {
  name: "A100-40GB",
  stages: ["matrix"],
  matrixFlops: 234e12,
  matrixTile: 16,
  generalFlops: 17.6e12,
  butterflySeconds: {},
  pointSeconds: 0,
  bytesPerPoint: 4,
  memory: [
    { name: "SRAM", bytes: 32_768 * 4, bandwidth: 9.5e12 },
    { name: "HBM", bytes: Number.POSITIVE_INFINITY, bandwidth: 1.35e12 },
  ],
  rowSeconds: 0,
  loopSeconds: 0,
  dispatchSeconds: 0,
  source: "Fu et al. 2023 (arXiv 2311.05908), cost model of section 3.2",
};

/** Eq. 2 for the order-p decomposition of an N-point transform into near-even factors, outermost first. */
function seconds(points: number, order: number, device: DeviceSpec): number {
  const bits = Math.round(Math.log2(points));
  let sum = 0;
  let block = points;
  for (let i = 0; i < order; i++) {
    const radix = 2 ** (Math.floor(bits / order) + (i < bits % order ? 1 : 0));
    const rate = radix >= device.matrixTile ? device.matrixFlops : device.generalFlops;
    // A stage works in the memory that holds the block it is applied to.
    const bytes = block * device.bytesPerPoint;
    const level = device.memory.find((m) => bytes <= m.bytes)!;
    sum += (16 * points * radix) / rate + (points * device.bytesPerPoint) / level.bandwidth;
    block /= radix;
  }
  return sum;
}

/** The order p in 2 … 4 that Eq. 2 finds cheapest for an N-point transform on a device with matrix units. */
export function bestOrder(points: number, device: DeviceSpec): number {
  return [2, 3, 4].reduce((best, p) =>
    seconds(points, p, device) < seconds(points, best, device) ? p : best,
  );
}
