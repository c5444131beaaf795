/**
 * Our causal gated convolution beside what a Transformer has in its place: causal FlashAttention-2 through PyTorch's
 * scaled_dot_product_attention, in bfloat16, with as many tokens of as many channels.
 */
import {
  caseName,
  compared,
  type GpuCase,
  type GpuRecord,
  type GpuRun,
  runGpuCase,
} from "./webgpu.ts";

/** What the convolution is compared with there. */
export const attention = "FlashAttention-2";

/** In a batch. */
const tokens = 65_536;
/** 12 heads of 64. */
const channels = 768;

/** 2K, 8K and 32K tokens in a sequence. */
export function gpuAttentionCases(): GpuCase[] {
  return [2048, 8192, 32_768].map((L) => ({
    ...{ mode: "causal", pass: "forward", gated: true, dtype: "bfloat16", N: 2 * L },
    rows: { B: tokens / L, H: channels },
  }));
}

export const attentionName = (c: GpuCase): string => `${caseName(c)}, beside attention`;

/** Measure one case; no record where there is no such attention. */
export async function runGpuAttention(c: GpuCase, run: GpuRun): Promise<GpuRecord[]> {
  if (typeof run.torch === "string") return [];
  const [ours] = await runGpuCase(c, { ...run, torch: "not asked" });
  const { B, H, L, dtype, gated, pass, rounds, ours_ms } = ours!;
  const shape = { B, H, L, N: 64, dtype };
  const answer = await run.torch.measure({ ...shape, peer: "attention", gated, pass, rounds });
  if (!answer.ms) return [];
  return [{ ...ours!, case: attentionName(c), ...compared(answer, attention, dtype, ours_ms) }];
}
