/** The commands of models: train, resume, eval, info. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { readdirSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { expect, test } from "vitest";
import { Folder, run, runJson, succeed } from "./support.ts";

const bin = fileURLToPath(new URL("../../dist/cli/bin.js", import.meta.url));

/** A text that is easily learnt, of 7 characters. */
const text = "abcabdabcabe\n".repeat(60);
const small = [
  ...["--width", "16", "--layers", "1", "--inner", "16", "--length", "16", "--filter-width", "8"],
  ...["--batch", "4", "--warmup", "2", "--rate", "0.02", "--report-every", "5"],
  ...["--evaluate-every", "10", "--threads", "1"],
];

function prepared(): {
  readonly folder: Folder;
  readonly argv: (more: readonly string[]) => string[];
} {
  const folder = new Folder();
  const data = folder.write("text.txt", new TextEncoder().encode(text));
  const argv = (more: readonly string[]): string[] => [
    ...["train", "--data", data, "--out", folder.file("run")],
    ...more,
  ];
  return { folder, argv };
}

test("a model is trained, resumed, judged and told of", async () => {
  const { folder, argv } = prepared();
  const begun = await succeed(argv(["--preset", "shakespeare-cpu", "--steps", "20", ...small]));
  const keys = ["step", "loss", "validation_loss", "tokens_per_second", "seconds"];
  for (const record of begun) expect(Object.keys(record)).toEqual(keys);
  expect(begun.map((r) => r.step)).toEqual([0, 5, 10, 15, 20]);
  expect(begun.at(-1)!.validation_loss).toBeLessThan(begun[0]!.validation_loss as number);
  const files = ["best.safetensors", "checkpoint.safetensors", "curve.svg", "log.jsonl"];
  expect(readdirSync(folder.file("run")).sort()).toEqual(files);

  // With the fields of the checkpoint: none is given again but the steps.
  const more = await succeed(argv(["--resume", "--steps", "40", "--threads", "1"]));
  expect(more.map((r) => r.step)).toEqual([25, 30, 35, 40]);
  const log = readFileSync(folder.file("run/log.jsonl"), "utf8").trim().split("\n");
  expect(log.map((line) => JSON.parse(line).step)).toEqual([0, 5, 10, 15, 20, 25, 30, 35, 40]);

  const checkpoint = folder.file("run/checkpoint.safetensors");
  const data = folder.file("text.txt");
  const judge = ["eval", checkpoint, "--data", data, "--held-out", "0.1", "--threads", "1"];
  const [judged] = await succeed(judge);
  expect(judged).toMatchObject({ command: "eval", tokens: 64 });
  expect(judged!.loss).toBeCloseTo(more.at(-1)!.validation_loss as number, 5);
  expect(judged!.bits).toBeCloseTo((judged!.loss as number) / Math.LN2, 12);
  expect((await run(judge)).stdout).toMatch(
    /^loss \d\.\d{4}, \d\.\d{4} bits a token, 64 tokens\n$/,
  );

  const [told] = await succeed(["info", checkpoint]);
  expect(told).toMatchObject({
    ...{ command: "info", types: ["F32"], loop: { step: 40, position: 40 } },
    training: { fields: { width: 16, steps: 40, tokens: "characters" }, characters: "\nabcde" },
  });
  expect((told!.tensors as Record<string, unknown>).embedding).toEqual([8, 16]);
  const lines = (await run(["info", checkpoint])).stdout;
  expect(lines).toMatch(
    /^parameters +[\d,]+ in \d+ tensors, F32\n {2}tokens +characters\n {2}width +16\n/,
  );
  expect(lines).toMatch(/\n {2}embedding +F32 \(8, 16\)\n/);
});

test("a signal stops a training with a checkpoint, from which it goes on as if nothing had been", async () => {
  const { folder, argv } = prepared();
  const fields = ["--preset", "shakespeare-cpu", "--steps", "20", "--dropout", "0.1", ...small];
  const lines: string[] = [];
  const stopped = await run(argv([...fields, "--json"]), {
    stoppable: (work) => {
      const controller = new AbortController();
      // Behind the first reports.
      const timer = setInterval(() => {
        const log = folder.file("run/log.jsonl");
        try {
          if (readFileSync(log, "utf8").split("\n").length > 2) controller.abort();
        } catch {
          // Not there yet.
        }
      }, 1);
      return work(controller.signal).finally(() => clearInterval(timer));
    },
  });
  lines.push(...stopped.stdout.trim().split("\n"));
  expect(stopped.code).toBe(130);
  expect(lines.length).toBeLessThan(5);
  await succeed(argv(["--resume", "--threads", "1"]));
  const whole = prepared();
  await succeed(whole.argv(fields));
  const weights = (f: Folder): Uint8Array => f.read("run/best.safetensors");
  expect(weights(folder)).toEqual(weights(whole.folder));
});

test("Ctrl-C stops the process behind a step, with a checkpoint", async () => {
  const { folder, argv } = prepared();
  const fields = ["--preset", "shakespeare-cpu", "--steps", "100000", ...small];
  const child = spawn(process.execPath, [bin, ...argv(fields)]);
  const lines: string[] = [];
  child.stdout.on("data", (data) => {
    lines.push(String(data));
    if (lines.join("").includes("step 40 ")) child.kill("SIGINT");
  });
  const [code] = (await once(child, "exit")) as [number | null];
  expect(code).toBe(130);
  const [told] = await succeed(["info", folder.file("run/checkpoint.safetensors")]);
  expect((told!.loop as { step: number }).step).toBeGreaterThanOrEqual(40);
});

test("genomes and bytes are learnt too", async () => {
  const folder = new Folder();
  const bases = Array.from({ length: 900 }, (_, i) => "ACGT"[(i * i + (i >> 2)) % 4]).join("");
  const genome = folder.write("genome.fa", new TextEncoder().encode(`>one\n${bases}\n`));
  for (const [preset, tokens, rows] of [
    ["dna", "dna", 16],
    ["shakespeare-cpu", "bytes", 256],
  ] as const) {
    const out = folder.file(preset);
    const argv = ["train", "--preset", preset, "--tokens", tokens, "--data", genome, "--out", out];
    const records = await succeed([...argv, "--steps", "10", ...small]);
    expect(records.at(-1)!.step).toBe(10);
    const [told] = await succeed(["info", `${out}/best.safetensors`]);
    expect((told!.tensors as Record<string, unknown>).embedding).toEqual([rows, 16]);
  }
});

test("what is asked wrongly is said, and nothing is left behind", async () => {
  const { folder, argv } = prepared();
  const refused: [string[], number, RegExp][] = [
    [["train", "--preset", "shakespeare"], 2, /--data is required/],
    [argv([]), 2, /--preset is required, or --resume/],
    [argv(["--preset", "hamlet"]), 2, /--preset must be one of shakespeare, shakespeare-cpu, dna/],
    [argv(["--preset", "dna", "--witdh", "3"]), 2, /Did you mean --width/],
    [argv(["--preset", "dna", "--width", "0"]), 2, /--width must be an integer from 1/],
    [
      argv(["--preset", "shakespeare-cpu", "--length", "100000"]),
      2,
      /tokens for 12 windows|must have tokens/,
    ],
    [argv(["--preset", "dna"]), 3, /must begin with >/],
    [argv(["--preset", "shakespeare-cpu", "--precision", "mixed", ...small]), 1, /needs a GPU/],
    [argv(["--resume"]), 3, /does not exist/],
    [["eval", folder.file("text.txt"), "--data", folder.file("text.txt")], 3, /safetensors/],
    [["info", folder.file("none")], 3, /does not exist/],
    [
      ["train", "--preset", "dna", "--data", folder.file("none"), "--out", folder.file("run")],
      3,
      /does not exist/,
    ],
  ];
  for (const [words, code, message] of refused) {
    const result = await runJson(words);
    expect([words, result.code]).toEqual([words, code]);
    expect(result.stderr).toMatch(message);
  }
  expect(folder.list()).toEqual(["text.txt"]);
});
