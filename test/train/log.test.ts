import { appendFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, onTestFinished, test } from "vitest";
import { lossCurve } from "../../src/train/curve.ts";
import type { TrainingReport } from "../../src/train/log.ts";
import { reportLine, TrainingLog } from "../../src/train/log.ts";

function report(step: number, more: Partial<TrainingReport> = {}): TrainingReport {
  return {
    ...{ step, loss: 4 / (1 + step), validation_loss: null, tokens_per_second: 1000 },
    ...{ seconds: step / 10, learning_rate: 1e-3, gradient_norm: 1, loss_scale: 1, skipped: 0 },
    ...more,
  };
}

function logPath(): string {
  const folder = mkdtempSync(join(tmpdir(), "flashfftconv-log-"));
  onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
  return join(folder, "log.jsonl");
}

test("a log has a line of JSON a report, and a resumed one goes on behind its step", () => {
  const path = logPath();
  const log = TrainingLog.open(path, 0, "test");
  for (const step of [10, 20, 30]) log.add(report(step));
  expect(readFileSync(path, "utf8").split("\n").length).toBe(4);
  const again = TrainingLog.open(path, 20, "test");
  again.add(report(30, { loss: 9 }));
  expect(again.reports.map(({ step, loss }) => [step, loss])).toEqual([
    [10, 4 / 11],
    [20, 4 / 21],
    [30, 9],
  ]);
  expect(TrainingLog.open(path, 0, "test").reports).toEqual([]);
});

test("a line that a crash cut short is dropped; one in the midst is an error that names it", () => {
  const path = logPath();
  const log = TrainingLog.open(path, 0, "test");
  log.add(report(10));
  appendFileSync(path, '{"step": 20, "lo');
  expect(log.reports).toEqual([report(10)]);
  writeFileSync(path, '{"step"\n{"step":20}\n');
  expect(() => log.reports).toThrow(/line 1/);
});

test("a log in a folder that is not there is an error about the file", () => {
  expect(() => TrainingLog.open(join(logPath(), "log.jsonl"), 0, "test")).toThrow(
    /must be writable/,
  );
});

test("the line for people says what is done, how fast, and how long it takes", () => {
  const line = reportLine(
    report(300, { validation_loss: 1.5 }),
    { steps: 2000, roofline: 4000 },
    2,
  );
  expect(line).toBe(
    "step 300 of 2,000, loss 0.0133, held out 1.5000, rate 1.0e-3, 1,000 tokens/s (25 % of the roofline), 56 min 40 s left",
  );
  const first = report(0, { loss: null, tokens_per_second: null, skipped: 2 });
  expect(reportLine(first, { steps: 5 }, 0)).toBe("step 0 of 5, 2 skipped, rate 1.0e-3");
});

/** Points of the paths of a colour. */
function pointsOf(svg: string, color: string): (readonly [number, number])[] {
  const path = new RegExp(`<path d="([^"]*)" fill="none" stroke="${color}"`).exec(svg)?.[1] ?? "";
  return [...path.matchAll(/[ML]([\d.]+) ([\d.]+)/g)].map(([, x, y]) => [Number(x), Number(y)]);
}

test("the curve has a point for every loss, at its place", () => {
  const steps = [0, 10, 20, 30, 40];
  const reports = steps.map((step) =>
    report(step, { validation_loss: step % 20 === 0 ? 5 - step / 10 : null }),
  );
  const svg = lossCurve(reports, { title: "a < b & c", marks: { "nanoGPT 1.88": 1.88 } });
  const [training, heldOut] = [pointsOf(svg, "#4f8ad9"), pointsOf(svg, "#d9822b")];
  expect([training.length, heldOut.length]).toEqual([5, 3]);
  // Steps are even apart, later losses are lower, which is further down; the held-out points lie on a line.
  const apart = training.slice(1).map(([x], i) => x - training[i]![0]);
  for (const gap of apart) expect(gap).toBeCloseTo(apart[0]!, 0);
  expect(training.map(([, y]) => y)).toEqual(training.map(([, y]) => y).sort((a, b) => a - b));
  expect(heldOut[1]![1] * 2).toBeCloseTo(heldOut[0]![1] + heldOut[2]![1], 0);
  expect(svg).toContain("a &#60; b &#38; c");
  expect(svg).toContain("nanoGPT 1.88");
  expect(svg).toContain("4 s in all");
});

test("losses that are no numbers have no points, and a log without any makes a picture", () => {
  const svg = lossCurve([report(10), report(20, { loss: Number.NaN }), report(30)]);
  expect(pointsOf(svg, "#4f8ad9").length).toBe(2);
  for (const reports of [[], [report(10)], [report(10, { loss: null })]])
    expect(lossCurve(reports)).not.toMatch(/NaN|Infinity/);
});
