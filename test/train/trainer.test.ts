/** Trainings of a tiny model: what they report and write, that a resumed one goes on with the same bits, and what stops them. */
import {
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, expect, onTestFinished, test } from "vitest";
import { FileError } from "../../src/errors.ts";
import { plainContext } from "../../src/files/output.ts";
import { openSafetensors } from "../../src/formats/safetensors.ts";
import { float32Of } from "../../src/formats/stored.ts";
import type { ModelMachine } from "../../src/nn/machine.ts";
import { Model } from "../../src/nn/model.ts";
import { activation, dropout } from "../../src/nn/operations/elementwise.ts";
import { embedding } from "../../src/nn/operations/embedding.ts";
import { linear } from "../../src/nn/operations/linear.ts";
import { crossEntropy } from "../../src/nn/operations/loss.ts";
import type { Mapped } from "../../src/nn/parameters.ts";
import type { TapeTensor } from "../../src/nn/tape.ts";
import { saveWeights } from "../../src/train/checkpoint.ts";
import type { MicroBatch } from "../../src/train/diagnose.ts";
import { NotFiniteError } from "../../src/train/diagnose.ts";
import type { TrainingReport } from "../../src/train/log.ts";
import type { TrainerOptions } from "../../src/train/options.ts";
import { Trainer } from "../../src/train/trainer.ts";
import { drawn, machinesUnderTest } from "../support/machines.ts";

const [B, L, D] = [2, 8, 16];
/** Tokens that texts have, and rows of the table: halves are stored in pairs. */
const [V, rows] = [11, 12];

const tree = (seed = 1, width = D) => ({
  table: drawn([rows, width], seed, 0.3),
  inner: { weight: drawn([width, width], seed + 1, 0.3), bias: drawn([width], seed + 2, 0.1) },
});
type Tree = ReturnType<typeof tree>;

const inputs = {
  inputs: { shape: [B, L], storage: "uint32" },
  targets: { shape: [B, L], storage: "uint32" },
} as const;

function loss(
  p: Mapped<Tree, TapeTensor>,
  { inputs: ids, targets }: { readonly [K in keyof typeof inputs]: TapeTensor },
): TapeTensor {
  const { tape } = ids;
  const x = tape.within("embedding", () => embedding(ids, p.table));
  const h = tape.within("hidden", () => dropout(activation(linear(x, p.inner), "gelu"), 0.1));
  return tape.within("head", () => crossEntropy(h, p.table, targets));
}

/** Text in which each token says the next: t → 3t + 1. */
async function* batches(
  from: number,
  count = Number.POSITIVE_INFINITY,
): AsyncGenerator<MicroBatch<typeof inputs>> {
  for (let n = from; n < from + count; n++) {
    const ids = new Uint32Array(B * L);
    for (let i = 0; i < ids.length; i++)
      ids[i] = i % L === 0 ? (7 * n + 5 * i) % V : (3 * ids[i - 1]! + 1) % V;
    yield { inputs: ids, targets: ids.map((t) => (3 * t + 1) % V) };
  }
}

type Options = TrainerOptions<unknown, Tree, typeof inputs>;

async function trainerOn(
  machine: ModelMachine,
  more: Partial<Options> = {},
  weights: Tree = tree(),
) {
  const model = await Model.create(machine, weights);
  const options = {
    ...{ model, inputs, loss, data: batches, validation: () => batches(1000, 3) },
    ...{ steps: 20, rate: { rate: 0.02, warmup: 4 }, reportEvery: 5, microBatches: 2, seed: 5 },
    ...more,
  };
  return { model, trainer: await Trainer.create(options) };
}

function folder(): string {
  const path = mkdtempSync(join(tmpdir(), "flashfftconv-train-"));
  onTestFinished(() => rmSync(path, { recursive: true, force: true }));
  return path;
}

/** Everything of a model that a next step depends on. */
const stateOf = async (model: Model) => [
  ...(await Promise.all((["parameter", "moment", "square"] as const).map((a) => model.read(a)))),
  ...(await Promise.all(["optimiser", "loss scale", "loss sum"].map((s) => model.readState(s)))),
];

describe.each(machinesUnderTest)("$name", ({ open }) => {
  test("a training learns, reports as it goes, and leaves its files", async () => {
    const machine = await open();
    const reports: TrainingReport[] = [];
    const lines: string[] = [];
    const out = folder();
    const { trainer, model } = await trainerOn(machine, {
      ...{ folder: join(out, "run"), steps: 60, evaluateEvery: 20, metadata: { model: "tiny" } },
      onReport: (report, line) => {
        reports.push(report);
        lines.push(line);
      },
    });
    const result = await trainer.run();
    expect(result).toMatchObject({ step: 60, interrupted: false, best: { step: 60 } });
    expect(reports.map((r) => r.step)).toEqual([0, 5, 10, 15, 20, 25, 30, 35, 40, 45, 50, 55, 60]);
    expect(reports.map((r) => r.validation_loss !== null)).toEqual(
      reports.map((r) => r.step % 20 === 0),
    );
    // From a guess among all tokens to knowing the next.
    expect(reports[0]!.validation_loss).toBeGreaterThan(0.8 * Math.log(V));
    expect(reports.at(-1)!.validation_loss).toBeLessThan(0.3 * Math.log(V));
    expect(reports.at(-1)!.loss).toBeLessThan(reports[1]!.loss! / 2);
    expect(await trainer.evaluate()).toBeCloseTo(reports.at(-1)!.validation_loss!, 5);
    const seconds = reports.map((r) => r.seconds);
    expect(seconds).toEqual(seconds.toSorted((a, b) => a - b));
    expect(reports[1]!.tokens_per_second! * seconds[1]!).toBeCloseTo(5 * 2 * B * L, -1.5);
    expect(lines[4]).toMatch(
      /^step 20 of 60, loss \d\.\d{4}, held out \d\.\d{4}, rate 1\.\de-2, .* tokens\/s, \d+ s left$/,
    );
    const files = ["best.safetensors", "checkpoint.safetensors", "curve.svg", "log.jsonl"];
    expect(readdirSync(join(out, "run")).sort()).toEqual(files);
    const written = readFileSync(join(out, "run", "log.jsonl"), "utf8")
      .trim()
      .split("\n");
    expect(written.map((line) => JSON.parse(line))).toEqual(reports);
    const best = await openSafetensors(join(out, "run", "best.safetensors"));
    expect([...best.tensors.keys()].sort()).toEqual(["inner.bias", "inner.weight", "table"]);
    expect(best.metadata.model).toBe("tiny");
    await best.close();
    trainer.dispose();
    model.dispose();
    machine.dispose();
  });

  test("a run that is stopped behind step 7 and resumed elsewhere has the bits of one that was not", async () => {
    const machine = await open();
    const [whole, parts] = [folder(), folder()];
    const once = await trainerOn(machine, { folder: whole, evaluateEvery: 10 });
    await once.trainer.run();

    const controller = new AbortController();
    let done = 0;
    const first = await trainerOn(machine, {
      ...{ folder: parts, evaluateEvery: 10, signal: controller.signal },
      onProgress: (what) => {
        if (what === "training" && ++done === 7) controller.abort();
      },
    });
    expect(await first.trainer.run()).toMatchObject({ step: 7, interrupted: true });
    const before = await stateOf(first.model);
    const elsewhere = await open();
    const second = await trainerOn(elsewhere, { folder: parts, evaluateEvery: 10 }, tree(99));
    await second.trainer.resume();
    expect(await stateOf(second.model)).toEqual(before);
    expect(await second.trainer.run()).toMatchObject({ step: 20, interrupted: false });
    expect(await stateOf(second.model)).toEqual(await stateOf(once.model));
    const losses = (path: string): unknown[] =>
      readFileSync(join(path, "log.jsonl"), "utf8")
        .trim()
        .split("\n")
        .map((line) => {
          const { step, loss, validation_loss, gradient_norm } = JSON.parse(line) as TrainingReport;
          return { step, loss, validation_loss, gradient_norm };
        });
    expect(losses(parts)).toEqual(losses(whole));
    // Another seed of dropout is another run: the comparison sees a difference.
    const other = await trainerOn(machine, { seed: 6 });
    await other.trainer.run();
    expect(await stateOf(other.model)).not.toEqual(await stateOf(once.model));
    machine.dispose();
    elsewhere.dispose();
  });

  test.each([
    [Number.NaN, "parameter inner.bias"],
    [3e38, "the result of head"],
  ])(
    "a bias of %s stops the run, which says what was first, and the last checkpoint stays",
    async (value, first) => {
      const machine = await open();
      const out = folder();
      const { trainer, model } = await trainerOn(machine, {
        folder: out,
        saveEvery: 20,
        steps: 24,
      });
      await trainer.save();
      const saved = readFileSync(join(out, "checkpoint.safetensors"));
      const values = await model.read();
      values.get("inner.bias")!.fill(value);
      await model.write(values);
      const error = await trainer.run().catch((e) => e);
      expect(error).toBeInstanceOf(NotFiniteError);
      // Mixed: the loss scale is halved from 2¹⁶ to 1 before, and halves overflow sooner.
      const mixed = machine.storage === "float16";
      expect(error.step).toBe(mixed ? 17 : 1);
      expect(error.first).toBe(mixed ? first.replace("head", "hidden") : first);
      expect(readFileSync(join(out, "checkpoint.safetensors")).equals(saved)).toBe(true);
      expect(readdirSync(out).filter((name) => name.includes("partial"))).toEqual([]);
      trainer.dispose();
      model.dispose();
      machine.dispose();
    },
  );

  test("an average of the weights is what is judged and kept as the best", async () => {
    const machine = await open();
    const out = folder();
    const { trainer, model } = await trainerOn(machine, {
      folder: out,
      optimiser: { average: 0.9 },
    });
    await trainer.run();
    const before = await stateOf(model);
    const judged = await trainer.evaluate();
    expect(await stateOf(model)).toEqual(before);
    expect(judged).toBeCloseTo(trainer.loop.best!.loss, 6);
    const average = await model.read("average");
    expect(average.get("table")).not.toEqual((await model.read()).get("table"));
    const file = await openSafetensors(join(out, "best.safetensors"));
    const kept = await float32Of(file.tensors.get("table")!);
    await file.close();
    expect(kept).toEqual(average.get("table"));
    machine.dispose();
  });
});

describe("what cannot go on", () => {
  const { open } = machinesUnderTest[0]!;

  test("a checkpoint of another model, a broken one and none are refused, and nothing changes", async () => {
    const machine = await open();
    const out = folder();
    const path = join(out, "checkpoint.safetensors");
    const { trainer, model } = await trainerOn(machine, { folder: out });
    const before = await stateOf(model);
    await expect(trainer.resume()).rejects.toThrow(/does not exist/);
    const wide = await trainerOn(machine, { folder: out }, tree(1, 24));
    await wide.trainer.save();
    await expect(trainer.resume()).rejects.toThrow(/misshapen: table \(12, 24\) for \(12, 16\)/);
    const average = await trainerOn(machine, { folder: out, optimiser: { average: 0.5 } });
    await average.trainer.save();
    await expect(trainer.resume()).rejects.toThrow(/unknown: optimiser\.average\./);
    await trainer.save();
    await expect(average.trainer.resume()).rejects.toThrow(/lacking: optimiser\.average\./);
    truncateSync(path, 2000);
    await expect(trainer.resume()).rejects.toThrow(FileError);
    writeFileSync(path, "no checkpoint");
    await expect(trainer.resume()).rejects.toThrow(FileError);
    await saveWeights(path, model);
    await expect(trainer.resume()).rejects.toThrow(/the place of a training/);
    expect(await stateOf(model)).toEqual(before);
    machine.dispose();
  });

  test("a full disk ends the run with an error of the file, and the last checkpoint stays whole", async () => {
    const machine = await open();
    const out = folder();
    let full = false;
    const plain = plainContext();
    const disk = {
      ...plain.disk,
      write: (descriptor: number, bytes: Uint8Array) => {
        if (full) return Promise.reject(Object.assign(new Error("full"), { code: "ENOSPC" }));
        return plain.disk.write(descriptor, bytes);
      },
    };
    const { trainer } = await trainerOn(machine, {
      folder: out,
      saveEvery: 4,
      context: { ...plain, disk },
      onProgress: (what) => {
        if (what === "training" && trainer.loop.step === 6) full = true;
      },
    });
    const error = await trainer.run().catch((e) => e);
    expect(error).toBeInstanceOf(FileError);
    expect(String(error)).toMatch(/full/);
    expect(readdirSync(out).filter((name) => name.includes("partial"))).toEqual([]);
    const again = await trainerOn(machine, { folder: out }, tree(3));
    await again.trainer.resume();
    expect(again.trainer.loop.step).toBe(4);
    machine.dispose();
  });

  test.each([
    [{ data: (from: number) => batches(from, 5) }, /data must have batches for all steps; got 5/],
    [{ vocabulary: { inputs: 10 } }, /inputs must be below 10; got 10 at/],
    [{ validation: () => batches(0, 0) }, /validation must have a batch/],
    [{ inputs: { ...inputs, third: inputs.inputs } }, /batches must have inputs, targets, third/],
    [{ steps: 0 }, /steps must be an integer from 1/],
    [{ reportEvery: 1.5 }, /reportEvery must be an integer/],
    [{ rate: { rate: -1 } }, /rate must be a number/],
    [{ optimiser: { eps: 0 } }, /eps must be/],
    [{ folder: "/dev/null/run" }, /must be a folder that can be written to/],
  ])("%o is refused", async (more, message) => {
    const machine = await open();
    const run = async () => (await trainerOn(machine, more as never)).trainer.run();
    await expect(run()).rejects.toThrow(message);
    machine.dispose();
  });
});
