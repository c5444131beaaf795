/** Sequences by positions or by channels, where no linear layer is near that could turn them on the way: products with the identity. */
import type { Tape, TapeTensor } from "../tape.ts";
import { linear } from "./linear.ts";

function identity(tape: Tape, width: number): { readonly weight: TapeTensor } {
  const fill = (): Float32Array => {
    const data = new Float32Array(width * width);
    for (let i = 0; i < width; i++) data[i * (width + 1)] = 1;
    return data;
  };
  return { weight: tape.constant(`identity ${width}`, [width, width], fill) };
}

/** (B, L, D) as (B, D, L). */
export function toChannels(x: TapeTensor): TapeTensor {
  return linear(x, identity(x.tape, x.width), { to: "channels" });
}

/** (B, D, L) as (B, L, D). */
export function toRows(x: TapeTensor): TapeTensor {
  return linear(x, identity(x.tape, x.shape[1]!), { from: "channels" });
}
