/**
 * Streams inside an AudioWorklet of Chromium: the processor and the page of docs/audio.md, through OfflineAudioContext. Needs
 * the built one-file module.
 */
import { fileURLToPath } from "node:url";
import type { Page } from "playwright-core";
import { expect, test } from "vitest";
import { createProblem } from "../../src/plan/create-problem.ts";
import { oracleForward, relativeError } from "../../src/reference/convolution.ts";
import { describeInChromium, samplesIn } from "../support/chromium.ts";
import { snippetOf } from "../support/guides.ts";
import { isolation, serveSite } from "./server.ts";

const dist = fileURLToPath(new URL("../../dist", import.meta.url));
const snippet = (mark: string): string => snippetOf("audio.md", mark);

/** Noise that decays by half in `half` samples: the same bits in Node and in the page. */
function decay(length: number, half: number, seed: number): Float32Array {
  const out = new Float32Array(length);
  let state = seed;
  let envelope = 1;
  const factor = 1 - Math.LN2 / half;
  for (let i = 0; i < length; i++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0;
    out[i] = (state / 2 ** 31) * envelope;
    envelope *= factor;
  }
  return out;
}

/** What a page renders. */
interface Rendering {
  /** Samples of the input. */
  readonly length: number;
  /** Taps of the response. */
  readonly taps: number;
  /** Channels of the input; the output has two. */
  readonly inputs: 1 | 2;
  /** A node of the browser's own instead. */
  readonly native: boolean;
}

interface Rendered {
  /** Samples of each channel, as base64. */
  readonly channels: readonly string[];
  readonly seconds: number;
}

const rate = 48_000;

/** Render noise through a response in the page, whose code may be edited. */
async function render(
  page: Page,
  rendering: Rendering,
  edit: readonly [from: string, to: string] = ["", ""],
): Promise<Rendered> {
  const code = snippet("page").replace(...edit);
  return await page.evaluate(
    async ({ rendering: { length, taps, inputs, native }, rate, decayText, connect }) => {
      const decay = new Function(`return ${decayText}`)() as (
        ...numbers: number[]
      ) => Float32Array<ArrayBuffer>;
      const context = new OfflineAudioContext(2, length, rate);
      const fill = (channels: number, n: number, half: number, seed: number): AudioBuffer => {
        const made = context.createBuffer(channels, n, rate);
        for (let c = 0; c < channels; c++) made.copyToChannel(decay(n, half, seed + c), c);
        return made;
      };
      const buffer = fill(2, taps, taps / 8, 1);
      const source = context.createBufferSource();
      source.buffer = fill(inputs, length, 1e9, 7);
      if (native) {
        const convolver = new ConvolverNode(context, { buffer, disableNormalization: true });
        source.connect(convolver).connect(context.destination);
      } else {
        const run = new Function("context", "buffer", "source", connect);
        await (run(context, buffer, source) as Promise<void>);
      }
      source.start();
      const begun = performance.now();
      const out = await context.startRendering();
      const seconds = (performance.now() - begun) / 1e3;
      const base64 = (samples: Float32Array<ArrayBuffer>): Promise<string> =>
        new Promise((resolve) => {
          const reader = new FileReader();
          reader.onload = () => resolve((reader.result as string).split(",")[1]!);
          reader.readAsDataURL(new Blob([samples]));
        });
      const channels = [await base64(out.getChannelData(0)), await base64(out.getChannelData(1))];
      return { channels, seconds };
    },
    {
      ...{ rendering, rate, decayText: decay.toString() },
      connect: `return (async () => {${code}})();`,
    },
  );
}

/** What the output must be, in float64: channel by channel. */
function exact({ length, taps, inputs }: Rendering): Float64Array[] {
  const problem = createProblem({ length, kernelLength: taps }, "test");
  return [0, 1].map((c) => {
    const u = Float64Array.from(decay(length, 1e9, 7 + (inputs === 1 ? 0 : c)));
    const k = Float64Array.from(decay(taps, taps / 8, 1 + c));
    return oracleForward(problem, { batch: 1, channels: 1, u, k });
  });
}

/** Hold every channel to the bar, and every quantum to having come. */
function expectExact({ channels }: Rendered, rendering: Rendering): number[] {
  const want = exact(rendering);
  return channels.map((text, c) => {
    const got = samplesIn(text);
    const error = relativeError(got, want[c]!);
    expect(error).toBeLessThan(1e-6);
    const quantum = 128;
    for (let at = 0; at + quantum <= got.length; at += quantum) {
      const late = got.subarray(at, at + quantum).every((x) => x === 0);
      if (late) throw new Error(`channel ${c}: no output in quantum ${at / quantum}`);
    }
    return error;
  });
}

describeInChromium("in an AudioWorklet", (chromium) => {
  const processor = snippet("processor");
  const pages = {
    "/index.html": '<!doctype html><title>audio</title><link rel="icon" href="data:,">',
    "/convolver.js": processor,
    "/modules.js": processor.replace("./audio-worklet.js", "./index.js"),
  };

  async function open(isolated = false): Promise<Page> {
    const headers = isolated ? isolation : {};
    const site = serveSite({ folder: dist, pages, headers: () => headers });
    return (await chromium.open((await chromium.serve(site)).address)).page;
  }

  test("15 s of stereo response over ten seconds: exact, no quantum late", async () => {
    const page = await open();
    const rendering = { length: 10 * rate, taps: 15 * rate, inputs: 2, native: false } as const;
    const ours = await render(page, rendering);
    const errors = expectExact(ours, rendering);
    const native = await render(page, { ...rendering, native: true });
    const theirs = expectExact(native, rendering);
    const row = (name: string, { seconds }: Rendered, e: readonly number[]): string =>
      `${name}: ${seconds.toFixed(2)} s, error ${Math.max(...e).toExponential(1)}`;
    console.info(`${row("AudioWorklet", ours, errors)}; ${row("ConvolverNode", native, theirs)}`);
  });

  const short = { length: 12_800, taps: 9_000, inputs: 1, native: false } as const;

  test("a mono source goes to both channels", async () => {
    expectExact(await render(await open(), short), short);
  });

  test("of a cross-origin isolated page, which has no more threads there", async () => {
    expectExact(await render(await open(true), short), short);
  });

  test("the package's modules run as they are", async () => {
    const edit = ["convolver.js", "modules.js"] as const;
    expectExact(await render(await open(), short, edit), short);
  });

  test("what create refuses reaches the page", async () => {
    const edit = ["channels: 2", "channels: 7"] as const;
    const refused = render(await open(), short, edit);
    await expect(refused).rejects.toThrow(
      /InvalidArgumentError: .*kernelLength must be an integer/,
    );
  });

  test("nothing was missing and nothing complained", () => {
    expect([chromium.missing, chromium.complaints]).toEqual([[], []]);
  });
});
