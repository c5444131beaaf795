#!/usr/bin/env node
/** The process around the command line: its streams, its signals and its exit code. */
import { constants } from "node:os";
import { Temporaries } from "../files/temporaries.ts";
import { printable } from "../show.ts";
import { Interruption, main } from "./main.ts";

const controller = new AbortController();

function interrupt(why: string, exitCode: number): void {
  process.exitCode = exitCode;
  controller.abort(new Interruption(why, exitCode));
}

/** What the first signal does instead of ending the process. */
let stop: (() => void) | undefined;

function onSignal(name: NodeJS.Signals): void {
  if (!stop) return interrupt(name, 128 + constants.signals[name]);
  stop();
  stop = undefined;
  guard();
}

// A signal ends the process at once, even in the midst of a computation, by the system's own default; only while there
// is an unfinished file does it have to be caught, so that the file is removed, and while work is asked to stop first.
let guarded = false;
let unfinished = 0;
function guard(): void {
  const needed = unfinished > 0 || stop !== undefined;
  if (guarded === needed) return;
  guarded = needed;
  for (const name of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    if (guarded) process.on(name, onSignal);
    else process.off(name, onSignal);
  }
}
const temporaries = new Temporaries((count) => {
  unfinished = count;
  guard();
});

async function stoppable<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const own = new AbortController();
  stop = () => own.abort();
  guard();
  try {
    return await work(own.signal);
  } finally {
    stop = undefined;
    guard();
  }
}

process.stdout.on("error", (error: NodeJS.ErrnoException) => {
  // The reader of a pipe may leave when it has seen enough: no word, and the code of a program that SIGPIPE ended.
  if (error.code === "EPIPE") return interrupt("the reader left", 141);
  process.stderr.write(
    `flashfftconv: the standard output cannot be written: ${printable(error.message)}\n`,
  );
  interrupt("the standard output is full", 3);
});
process.stderr.on("error", () => {});

const { stdout, stderr } = process;
const code = await main(process.argv.slice(2), {
  stdout,
  stderr,
  signal: controller.signal,
  temporaries,
  stoppable,
});
// After an interruption, work may still be under way in other threads.
if (controller.signal.aborted) process.exit(code);
process.exitCode ??= code;
