/** stream.processSync and flushSync: the bits of process and flush, in pieces of any length, without a promise. */
import { expect, test } from "vitest";
import { encode } from "../../src/dtype.ts";
import { FlashFFTConvStream, InvalidArgumentError } from "../../src/index.ts";
import { describeBackends, onCpu } from "../support/backends.ts";
import { expectSameBits } from "../support/close.ts";
import { normal } from "../support/signals.ts";

const rows = { batch: 2, channels: 3 };
const sizes = [1, 700, 64, 0, 129, 1000];

describeBackends(
  "a stream that returns no promise",
  (_, configuration) => {
    const { instructions } = onCpu(configuration);

    test.each([
      ["causal", "float32", true],
      ["same", "float32", true],
      ["full", "bfloat16", false],
    ] as const)("mode %s of %s", async (mode, dtype, gated) => {
      const k = Float32Array.from(normal(3 * 500, 1));
      const options = { ...rows, mode, dtype, instructions, blockLength: 64 };
      using one = await FlashFFTConvStream.create(k, options);
      using other = await FlashFFTConvStream.create(k, options);
      const draw = (n: number, seed: number): Float32Array | Uint16Array =>
        encode(normal(6 * n, seed), dtype);
      for (let sequence = 0; sequence < 2; sequence++) {
        for (const [i, n] of sizes.entries()) {
          const u = draw(n, i + 2);
          const piece = gated ? { u, pregate: draw(n, i + 20), postgate: draw(n, i + 40) } : { u };
          // Calls of both kinds may follow each other.
          const y = i % 2 === 1 ? await other.process(piece) : other.processSync(piece);
          const expected = await one.process(piece);
          expect(y.length).toBe(expected.length);
          if (y.length > 0) expectSameBits(y, expected, `piece ${i}`);
        }
        expectSameBits(other.flushSync(), await one.flush(), "the end");
      }
    });

    test("refuses what it cannot do", async () => {
      const k = Float32Array.from(normal(500, 1));
      const stream = await FlashFFTConvStream.create(k, { instructions, blockLength: 64 });
      const u = new Float32Array(64);
      expect(() => stream.processSync([1, 2] as unknown as Float32Array)).toThrow(
        /one typed array/,
      );
      const running = stream.process(u);
      expect(() => stream.processSync(u)).toThrow(
        /stream.processSync: it needs the stream to itself/,
      );
      expect(() => stream.flushSync()).toThrow(InvalidArgumentError);
      await running;
      expect(stream.processSync(u).length).toBe(64);
      stream.dispose();
      expect(() => stream.processSync(u)).toThrow(/disposed/);
    });
  },
  { threads: 1 },
);
