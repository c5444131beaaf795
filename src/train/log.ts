/** What a training reports: lines of JSON, of which the first that a resumed run would write again are dropped, and a line for people. */
import { FileError } from "../errors.ts";
import { node } from "../files/node.ts";
import { systemError } from "../files/system-error.ts";
import { show } from "../show.ts";

/** A report, as lines of the log have it. */
export interface TrainingReport {
  /** Steps done. */
  readonly step: number;
  /** Mean loss of the steps since the report before; null before the first step, and where all were skipped. */
  readonly loss: number | null;
  /** Loss of the held-out part, where it was computed at this step. */
  readonly validation_loss: number | null;
  /** Since the report before. */
  readonly tokens_per_second: number | null;
  /** Time of training so far, evaluations and checkpoints not counted. */
  readonly seconds: number;
  readonly learning_rate: number;
  /** Norm of the last step's gradient before clipping. */
  readonly gradient_norm: number | null;
  readonly loss_scale: number;
  /** Steps since the report before whose gradients overflowed: they changed nothing. */
  readonly skipped: number;
}

/** Lines of JSON in a file, which the operating system has as soon as they are written. */
export class TrainingLog {
  readonly #path: string;
  readonly #call: string;

  private constructor(path: string, call: string) {
    this.#path = path;
    this.#call = call;
  }

  /**
   * Begin a log, or go on with one whose lines up to `step` stand.
   * @throws FileError where it cannot be read or written.
   */
  static open(path: string, step: number, call: string): TrainingLog {
    const log = new TrainingLog(path, call);
    const kept = step > 0 ? readLog(path, call).filter((report) => report.step <= step) : [];
    log.#write(kept.map((report) => `${JSON.stringify(report)}\n`).join(""), "w");
    return log;
  }

  add(report: TrainingReport): void {
    this.#write(`${JSON.stringify(report)}\n`, "a");
  }

  /** All of them. */
  get reports(): TrainingReport[] {
    return readLog(this.#path, this.#call);
  }

  #write(text: string, flag: "w" | "a"): void {
    try {
      node.fs.writeFileSync(this.#path, text, { flag });
    } catch (error) {
      throw systemError(this.#call, this.#path, "writable", error);
    }
  }
}

/** Reports of a log; none where there is no such file. A line that a crash cut short is left out where it is the last. */
function readLog(path: string, call: string): TrainingReport[] {
  let text: string;
  try {
    text = node.fs.readFileSync(path, "utf8");
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "ENOENT") return [];
    throw systemError(call, path, "readable", error);
  }
  const lines = text.split("\n");
  return lines.flatMap((line, i) => {
    if (line === "") return [];
    try {
      return [JSON.parse(line) as TrainingReport];
    } catch (cause) {
      if (i === lines.length - 1) return [];
      const parts = {
        ...{ call, requirement: `${show(path)} must have a report in JSON on each line` },
        ...{ value: `line ${i + 1}: ${show(line)}`, remedy: "Remove the line, or the file." },
      };
      throw new FileError(parts, cause);
    }
  });
}

/** What is done and what is left, for a line on a terminal. */
export interface ProgressFacts {
  readonly steps: number;
  /** Tokens each second that the machine could do at best, where that is known. */
  readonly roofline?: number | undefined;
}

/**
 * A report on one line: step 300 of 2,000, loss 1.912, rate 9.7e-4, 41,000 tokens/s (62 % of the roofline), 2 min 5 s left.
 * @param secondsPerStep mean time of a step so far.
 */
export function reportLine(
  report: TrainingReport,
  { steps, roofline }: ProgressFacts,
  secondsPerStep: number,
): string {
  const { step, loss, validation_loss, tokens_per_second, learning_rate, skipped } = report;
  const share =
    roofline && tokens_per_second ? Math.round((100 * tokens_per_second) / roofline) : 0;
  const left = Math.ceil((steps - step) * secondsPerStep);
  return [
    `step ${show(step)} of ${show(steps)}`,
    ...(loss === null ? [] : [`loss ${loss.toFixed(4)}`]),
    ...(validation_loss === null ? [] : [`held out ${validation_loss.toFixed(4)}`]),
    ...(skipped ? [`${skipped} skipped`] : []),
    `rate ${learning_rate.toExponential(1)}`,
    ...(tokens_per_second === null
      ? []
      : [
          `${show(Math.round(tokens_per_second))} tokens/s${share ? ` (${share} % of the roofline)` : ""}`,
        ]),
    ...(step > 0 && step < steps ? [`${timeLeft(left)} left`] : []),
  ].join(", ");
}

function timeLeft(seconds: number): string {
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  if (hours > 0) return `${hours} h ${minutes} min`;
  return minutes > 0 ? `${minutes} min ${seconds % 60} s` : `${seconds} s`;
}
