/** A GPU answers later: calls that return no promise are refused there, and told what to write. */
import { expect, test } from "vitest";
import {
  FlashDepthwiseConv1d,
  FlashFFTConv,
  FlashFFTConvStream,
  UnsupportedError,
} from "../../src/index.ts";
import { onGpu } from "../support/backends.ts";

const backend = "webgpu";

test.runIf(onGpu)("a GPU cannot answer at once", async () => {
  using conv = await FlashFFTConv.create({ length: 64, backend });
  using depthwise = await FlashDepthwiseConv1d.create({ channels: 1, kernelLength: 3, backend });
  using stream = await FlashFFTConvStream.create(new Float32Array(64).fill(1), { backend });
  const [u, weight] = [new Float32Array(64), new Float32Array(3)];
  const calls: [() => unknown, RegExp][] = [
    [() => conv.forwardSync(u, u), /conv\.forwardSync.*await conv\.forward/],
    [() => conv.backwardSync(u, u, u), /conv\.backwardSync.*await conv\.backward/],
    [() => conv.prepareKernelSync(u), /conv\.prepareKernelSync.*await conv\.prepareKernel/],
    [() => depthwise.forwardSync(u, weight), /depthwise\.forwardSync.*await depthwise\.forward/],
    [() => depthwise.backwardSync(u, u, weight), /await depthwise\.backward/],
    [() => stream.processSync(u), /stream\.processSync.*or use process\./],
    [() => stream.flushSync(), /stream\.flushSync/],
  ];
  for (const [call, message] of calls) {
    expect(call).toThrow(UnsupportedError);
    expect(call).toThrow(message);
  }
});
