/** `flashfftconv train` and `flashfftconv eval`: a language model of texts or genomes, and what it makes of others. */
import { join } from "node:path";
import { orderedWindows } from "../../data/windows.ts";
import { Evaluation } from "../../train/evaluation.ts";
import type { TrainingReport } from "../../train/log.ts";
import { Trainer, trainingFiles } from "../../train/trainer.ts";
import { type Command, exitCodes, shared } from "../options.ts";
import { jsonLine } from "../report.ts";
import {
  configOf,
  fieldOptions,
  fieldsOf,
  groupsOf,
  machineOf,
  openData,
  openModel,
  presetOf,
  presets,
  problemOfModel,
  readTexts,
  textsOf,
  windowsOf,
} from "../training.ts";

/** Where models compute. */
export const machineOptions: Command["options"] = [
  shared.backend,
  {
    name: "precision",
    value: "TYPE",
    help: "float32, or mixed: float16 on a GPU (default: mixed with --backend webgpu)",
  },
  shared.threads,
  shared.instructions,
];

const dataOption: Command["options"][number] = {
  ...{ name: "data", value: "FILE", required: true as const },
  help: "a text, or a genome in FASTA, also compressed with gzip",
};

export const trainCommand: Command = {
  name: "train",
  summary: "train a Hyena language model on a text or a genome",
  options: [
    {
      name: "preset",
      value: "NAME",
      help: `where fields begin: ${Object.keys(presets).join(", ")}`,
    },
    dataOption,
    { name: "out", value: "FOLDER", required: true, help: "where model, log and curve go" },
    { name: "resume", help: "go on from the checkpoint in --out, with its fields" },
    ...machineOptions,
    ...fieldOptions,
  ],
  notes: `
The folder gets checkpoint.safetensors, from which --resume goes on with the same bits; best.safetensors, the weights whose loss
on the held-out part was lowest; log.jsonl, a report a line; and curve.svg. Ctrl-C writes a checkpoint and ends.

With --json each report is a line with step, loss, validation_loss, tokens_per_second and seconds (of training, without evaluation).

examples:
  flashfftconv train --preset shakespeare-cpu --data shakespeare.txt --out run
  flashfftconv train --resume --data shakespeare.txt --out run --steps 4000
  flashfftconv train --preset dna --data ecoli.fna.gz --out run --backend webgpu`,
  run: async (values, context) => {
    const { progress, stdout, json } = context;
    const folder = values.required("out");
    const checkpoint = join(folder, trainingFiles.checkpoint);
    const resumes = values.has("resume");
    const before = resumes ? await readTexts(checkpoint, values.call) : undefined;
    const fields = fieldsOf(values, before?.fields ?? presetOf(values));
    const { source, tokenizer } = await openData(
      values.required("data"),
      fields.tokens,
      before?.tokenizer,
    );
    const windows = windowsOf(source, fields);
    const machine = await machineOf(values);
    const config = configOf(fields, tokenizer);
    const problem = await problemOfModel(machine, config, fields);
    const { steps, rate, warmup, lowest, clip, decay, beta1, beta2, average } = fields;
    const { microBatches, seed, reportEvery, evaluateEvery, saveEvery } = fields;
    const tell = (report: TrainingReport, line: string): void => {
      const { step, loss, validation_loss, tokens_per_second, seconds } = report;
      progress.clear();
      const record = { step, loss, validation_loss, tokens_per_second, seconds };
      stdout.write(json ? jsonLine(record) : `${line}\n`);
    };
    progress.update("compiling");
    const result = await context.stoppable(async (signal) => {
      const trainer = await Trainer.create({
        ...{ ...problem, ...windows, steps, microBatches, seed, folder, signal, context },
        ...{ reportEvery, evaluateEvery, saveEvery, metadata: textsOf(fields, tokenizer) },
        rate: { rate, lowest, warmup: Math.min(warmup, steps) },
        optimiser: {
          ...{ betas: [beta1, beta2], clip: clip || Number.POSITIVE_INFINITY, decay },
          ...{ groups: groupsOf(fields), ...(average > 0 && { average }) },
        },
        title: `Hyena ${fields.width} × ${fields.layers}, ${source.name.split("/").at(-1)}`,
        onReport: tell,
        onProgress: (what, share) => progress.update(what, share),
      });
      if (resumes) await trainer.resume();
      return trainer.run();
    });
    progress.clear();
    await source.close();
    machine.dispose();
    return result.interrupted ? exitCodes.interrupted : exitCodes.done;
  },
};

export const evalCommand: Command = {
  name: "eval",
  summary: "the loss of a trained model on a text or a genome",
  options: [
    { name: "model", value: "FILE", positional: true, required: true, help: "what train wrote" },
    dataOption,
    {
      name: "held-out",
      value: "X",
      help: "the share at the end of the data that counts (default: all)",
    },
    { name: "batch", value: "N", help: "sequences at once (default: the training's)" },
    { name: "length", value: "N", help: "tokens of a sequence (default: the training's)" },
    ...machineOptions,
  ],
  notes: `
The loss is the mean over all tokens but the first of −ln of the model's share for the next token; bits are that by 2. Tokens that
fill no batch are left out: --batch 1 leaves out the fewest.

example:
  flashfftconv eval run/best.safetensors --data shakespeare.txt --held-out 0.1`,
  run: async (values, context) => {
    const machine = await machineOf(values);
    const path = values.required("model");
    const { problem, fields, tokenizer } = await openModel(machine, path, values);
    const { source } = await openData(values.required("data"), fields.tokens, tokenizer);
    const { batch, length } = fields;
    const share = values.number("held-out", 0, 1) ?? 1;
    const from = Math.floor(source.size * (1 - share));
    const windows = orderedWindows(source, { batch, length, from });
    context.progress.update("compiling");
    const evaluation = await Evaluation.create(problem);
    let tokens = 0;
    const loss = await evaluation.run(windows, () => {
      tokens += batch * length;
      context.progress.update("evaluating", tokens / (source.size - from));
    });
    context.progress.clear();
    const record = { command: "eval", loss, bits: loss / Math.LN2, tokens };
    const line = `loss ${loss.toFixed(4)}, ${record.bits.toFixed(4)} bits a token, ${tokens} tokens\n`;
    context.stdout.write(context.json ? jsonLine(record) : line);
    await source.close();
    machine.dispose();
    return exitCodes.done;
  },
};
