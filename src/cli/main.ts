/**
 * The command line without its process: arguments in, text out, an exit code back. `bin.ts` puts a process around it,
 * tests put collectors.
 */
import {
  BackendError,
  FileError,
  FlashFFTConvError,
  InvalidArgumentError,
  UnsupportedError,
} from "../errors.ts";
import { type Disk, systemDisk } from "../files/output.ts";
import { Temporaries } from "../files/temporaries.ts";
import { escaped, printable, show } from "../show.ts";
import { benchCommand } from "./commands/bench.ts";
import { convCommand } from "./commands/conv.ts";
import { infoCommand } from "./commands/info.ts";
import { planCommand } from "./commands/plan.ts";
import { evalCommand, trainCommand } from "./commands/train.ts";
import { tuneCommand } from "./commands/tune.ts";
import { verifyCommand } from "./commands/verify.ts";
import {
  type Command,
  type CommandContext,
  commandHelp,
  exitCodeHelp,
  exitCodes,
  inOptions,
  parseOptions,
  suggestion,
} from "./options.ts";
import { type Pipes, systemPipes } from "./pipes.ts";
import { jsonLine, Progress, type TextOutput } from "./report.ts";
import { version } from "./version.ts";

/** What the command line needs of its process. */
export interface Terminal {
  readonly stdout: TextOutput;
  readonly stderr: TextOutput;
  /** Aborted, with an Interruption, to stop: unfinished files are removed before `main` returns. */
  readonly signal?: AbortSignal;
  readonly temporaries?: Temporaries;
  readonly disk?: Disk;
  readonly pipes?: Pipes;
  /** Catches the first signal to stop, for work that ends by itself then. */
  readonly stoppable?: CommandContext["stoppable"];
}

/** Why the work was stopped from outside. */
export class Interruption extends Error {
  override readonly name = "Interruption";
  readonly exitCode: number;

  constructor(what: string, exitCode: number) {
    super(what);
    this.exitCode = exitCode;
  }
}

const commands: readonly Command[] = [
  convCommand,
  planCommand,
  benchCommand,
  tuneCommand,
  verifyCommand,
  infoCommand,
  trainCommand,
  evalCommand,
];

/**
 * Run one command line, without the program's name.
 * @returns the exit code; no error is thrown.
 */
export async function main(argv: readonly string[], terminal: Terminal): Promise<number> {
  const { stderr, disk = systemDisk, pipes = systemPipes } = terminal;
  const stdout = forAnswers(argv, terminal);
  const { signal = new AbortController().signal, temporaries = new Temporaries() } = terminal;
  const { stoppable = (work) => work(signal) } = terminal;
  const progress = new Progress(stderr);
  const json = argv.includes("--json");
  const interrupted = new Promise<never>((_, reject) => {
    const stop = (): void => {
      temporaries.remove();
      reject(signal.reason);
    };
    if (signal.aborted) stop();
    else signal.addEventListener("abort", stop, { once: true });
  });
  try {
    const context = { stdout, progress, json, signal, disk, temporaries, pipes, stoppable };
    return await Promise.race([run(argv, context, stderr), interrupted]);
  } catch (error) {
    progress.clear();
    return report(error, argv, json, { stdout, stderr });
  } finally {
    progress.clear();
  }
}

/** The output of answers: the standard error where the standard output carries a file. */
function forAnswers(argv: readonly string[], { stdout, stderr }: Terminal): TextOutput {
  const command = commandNamed(argv[0]);
  if (!command?.toPipe) return stdout;
  try {
    return command.toPipe(parseOptions(command, argv.slice(1))) ? stderr : stdout;
  } catch {
    // It will be refused: no file is written.
    return stdout;
  }
}

type MainContext = Parameters<Command["run"]>[1];

async function run(
  argv: readonly string[],
  context: MainContext,
  stderr: TextOutput,
): Promise<number> {
  const [name, ...rest] = argv;
  const { stdout } = context;
  if (name === undefined) {
    stderr.write(generalHelp());
    return exitCodes.badInput;
  }
  if (name === "--version" || name === "-v" || name === "version") {
    stdout.write(`${version()}\n`);
    return exitCodes.done;
  }
  if (name === "--help" || name === "-h" || (name === "help" && rest.length === 0)) {
    stdout.write(generalHelp());
    return exitCodes.done;
  }
  if (name === "help") {
    stdout.write(commandHelp(findCommand(rest[0])));
    return exitCodes.done;
  }
  const command = findCommand(name);
  if (rest.some((argument) => argument === "--help" || argument === "-h")) {
    stdout.write(commandHelp(command));
    return exitCodes.done;
  }
  return await command.run(parseOptions(command, rest), context);
}

function commandNamed(name: string | undefined): Command | undefined {
  return commands.find((command) => command.name === name);
}

function findCommand(name: string | undefined): Command {
  const names = commands.map((command) => command.name);
  const found = commandNamed(name);
  if (found) return found;
  throw new InvalidArgumentError({
    call: "flashfftconv",
    requirement: `the first argument must be one of ${names.join(", ")}`,
    value: name === undefined ? "none" : show(name),
    remedy: (name && suggestion(name, names)) || "flashfftconv --help explains them.",
  });
}

function generalHelp(): string {
  const width = Math.max(...commands.map(({ name }) => name.length));
  const lines = commands.map(({ name, summary }) => `  ${name.padEnd(width)}  ${summary}`);
  return `flashfftconv ${version()}: exact long convolutions with gradients

usage: flashfftconv COMMAND [options]

commands:
${lines.join("\n")}

'flashfftconv COMMAND --help' explains a command; --version prints the version.
Every command takes --json: one JSON object a line on the standard output, errors included.

${exitCodeHelp}`;
}

/** Say what went wrong, for people and with --json for programs, and return the exit code. */
function report(
  error: unknown,
  argv: readonly string[],
  json: boolean,
  { stdout, stderr }: Terminal,
): number {
  if (error instanceof Interruption) return error.exitCode;
  const known = outOfMemory(error, argv) ?? asTyped(error, commandNamed(argv[0]));
  const name = known instanceof Error ? known.name : "Error";
  const typed = known instanceof FlashFFTConvError;
  const text = known instanceof Error ? known.message : String(known);
  const message = typed ? text : printable(text);
  const parts = typed ? known.parts : {};
  if (json) {
    const record = {
      command: commandNamed(argv[0])?.name ?? null,
      error: { name, message, ...parts },
    };
    stdout.write(jsonLine(record));
  }
  if (typed) {
    // A record on the same output has said it.
    if (!json || stdout !== stderr) stderr.write(`${message}\n`);
  } else {
    const frames = known instanceof Error ? (known.stack ?? "").split(/\n(?= +at )/).slice(1) : [];
    const lines = [`${printable(name)}: ${message}`, ...frames].map(escaped).join("\n");
    stderr.write(
      `flashfftconv: this is an error in flashfftconv itself. Please report it.\n${lines}\n`,
    );
  }
  if (known instanceof InvalidArgumentError) return exitCodes.badInput;
  return known instanceof FileError ? exitCodes.badFile : exitCodes.failed;
}

/** An error of the library about options, in those that the user typed. */
function asTyped(error: unknown, command: Command | undefined): unknown {
  const kinds = [InvalidArgumentError, UnsupportedError, BackendError];
  const Kind = kinds.find((kind) => error instanceof kind);
  if (!Kind || !command) return error;
  const { parts, cause } = error as FlashFFTConvError;
  const requirement = inOptions(parts.requirement, command);
  const remedy = inOptions(parts.remedy, command);
  // What a method of the library was called is no call of this user's.
  const call = parts.call.startsWith("flashfftconv") ? parts.call : `flashfftconv ${command.name}`;
  return new Kind({ call, requirement, value: parts.value, remedy }, cause);
}

/** What JavaScript, WebAssembly and threads throw where memory ends says nothing to a user. */
function outOfMemory(error: unknown, argv: readonly string[]): BackendError | undefined {
  if (!(error instanceof Error) || error instanceof FlashFFTConvError) return undefined;
  const { code } = error as NodeJS.ErrnoException;
  const ofRange =
    error instanceof RangeError && /memory|alloc|array length|array buffer/i.test(error.message);
  const ofSystem = [
    "ENOMEM",
    "ERR_WORKER_OUT_OF_MEMORY",
    "ERR_WORKER_INIT_FAILED",
    "ERR_MEMORY_ALLOCATION_FAILED",
  ];
  if (!ofRange && !ofSystem.includes(code ?? "")) return undefined;
  return new BackendError(
    {
      call: `flashfftconv ${argv[0]}`,
      requirement: "the samples, the work memory and the threads must fit in this process's memory",
      value: `a refusal (${printable(error.message)})`,
      remedy:
        "Use shorter rows or fewer --threads, or give the process more memory (ulimit -v, the container's limit).",
    },
    error,
  );
}
