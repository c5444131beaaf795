/** `flashfftconv generate` and `flashfftconv embed`: what a trained model writes, and what it makes of a text. */
import { InvalidArgumentError } from "../../errors.ts";
import { checkOutput, writeWhole } from "../../files/output.ts";
import { HyenaEmbedder } from "../../models/embed.ts";
import { generate } from "../../models/generate.ts";
import { HyenaCache } from "../../models/hyena-cache.ts";
import { escaped, show } from "../../show.ts";
import { npyHeader } from "../npy.ts";
import { type Command, defined, exitCodes } from "../options.ts";
import { jsonLine } from "../report.ts";
import {
  dataOption,
  machineOf,
  machineOptions,
  modelOption,
  openData,
  openModel,
} from "../training.ts";

export const generateCommand: Command = {
  name: "generate",
  summary: "let a trained model write",
  options: [
    modelOption,
    {
      name: "prompt",
      value: "TEXT",
      help: "what it goes on from (default: the end of a line, or A)",
    },
    { name: "count", value: "N", help: "tokens to write (default: 256)" },
    {
      name: "temperature",
      value: "X",
      help: "0 for the likeliest token, 1 as the model says (default: 1)",
    },
    { name: "top-k", value: "N", help: "draw from so many of the likeliest (default: all)" },
    { name: "seed", value: "N", help: "what the draws depend on (default: 1)" },
    ...machineOptions,
  ],
  notes: `
The prompt goes through the model in one forward, later tokens through a cache of its filters; either is exact.

example:
  flashfftconv generate run/best.safetensors --prompt ROMEO: --temperature 0.8`,
  run: async (values, context) => {
    const { stdout, json, progress, signal } = context;
    const machine = await machineOf(values);
    const { problem, fields, tokenizer, config } = await openModel(machine, values);
    const prompt = values.text("prompt") ?? (fields.tokens === "dna" ? "A" : "\n");
    const cache = new HyenaCache(problem.model, config);
    const options = defined({
      count: values.integer("count", 1, 2 ** 24),
      temperature: values.number("temperature", 0, 100),
      topK: values.integer("top-k", 1, tokenizer.size),
      seed: values.integer("seed", 0, 2 ** 32 - 1),
    });
    const bytes = new TextDecoder();
    const start = performance.now();
    let [text, tokens] = ["", 0];
    progress.update("compiling");
    const drawn = generate(cache, tokenizer.encode(prompt), {
      ...options,
      vocabulary: tokenizer.size,
    });
    for await (const token of drawn) {
      signal.throwIfAborted();
      // A byte may be part of a character.
      const piece =
        fields.tokens === "bytes"
          ? bytes.decode(Uint8Array.of(token), { stream: true })
          : tokenizer.decode([token]);
      progress.clear();
      if (!json) stdout.write(escaped(piece));
      text += piece;
      tokens += 1;
    }
    const seconds = (performance.now() - start) / 1000;
    const record = { command: "generate", prompt, text, tokens, seconds };
    stdout.write(json ? jsonLine(record) : "\n");
    cache.dispose();
    machine.dispose();
    return exitCodes.done;
  },
};

export const embedCommand: Command = {
  name: "embed",
  summary: "what a trained model makes of a text or a genome, as vectors",
  options: [
    modelOption,
    dataOption,
    { name: "out", value: "FILE", required: true, help: "the .npy file to write" },
    { name: "length", value: "N", help: "tokens of a window (default: the training's)" },
    { name: "positions", help: "write the vectors of all positions, not their mean" },
    ...machineOptions,
  ],
  notes: `
The text is cut into windows one behind the other; what fills none is left out. The file has the hidden states that the model's head
reads, in float32: (windows, width), or (windows, length, width) with --positions.

example:
  flashfftconv embed run/best.safetensors --data shakespeare.txt --out vectors.npy`,
  run: async (values, context) => {
    const output = await checkOutput(values.required("out"), values.call);
    const machine = await machineOf(values);
    const { problem, fields, tokenizer, config } = await openModel(machine, values);
    const { source } = await openData(values.required("data"), fields.tokens, tokenizer);
    const { length } = fields;
    const windows = Math.floor(source.size / length);
    if (windows === 0) {
      throw new InvalidArgumentError({
        call: values.call,
        requirement: `the data must have ${show(length)} tokens, a window`,
        value: show(source.size),
        remedy: "Set --length to fewer.",
      });
    }
    const mean = !values.has("positions");
    context.progress.update("compiling");
    const embedder = await HyenaEmbedder.open(problem.model, config, { length, mean });
    const shape = mean ? [windows, config.width] : [windows, length, config.width];
    await writeWhole(output, values.call, context, async (write) => {
      await write(npyHeader("float32", shape));
      const tokens = new Uint32Array(length);
      for (let i = 0; i < windows; i++) {
        await source.read(tokens, i * length);
        const vectors = await embedder.embed(tokens);
        await write(new Uint8Array(vectors.buffer, vectors.byteOffset, vectors.byteLength));
        context.progress.update("embedding", (i + 1) / windows);
      }
    });
    context.progress.clear();
    const record = { command: "embed", out: output.shown, shape };
    const line = `${output.shown}: ${shape.join(" × ")} numbers\n`;
    context.stdout.write(context.json ? jsonLine(record) : escaped(line));
    embedder.dispose();
    await source.close();
    machine.dispose();
    return exitCodes.done;
  },
};
