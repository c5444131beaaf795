/** Unfinished files: beside what they are to become, removed whatever happens. */
import { node } from "./node.ts";

/** An unfinished file, open for writing. */
export interface Temporary {
  readonly path: string;
  readonly descriptor: number;
}

/** This machine in a file's name: folders may be shared between machines. */
const machineName = (): string =>
  node.os
    .hostname()
    .replace(/[^A-Za-z0-9-]/g, "_")
    .slice(0, 64);

/**
 * The unfinished files of this process. They are removed without waiting: an interruption leaves none, because nothing
 * else runs between the removal and the end of the process. A process that is killed outright leaves its own: their names
 * hold the machine and the process, and whoever writes into that folder next removes those whose process is gone.
 */
export class Temporaries {
  readonly #paths = new Set<string>();
  readonly #onChange: (count: number) => void;

  /** @param onChange told how many unfinished files there are, each time that changes. */
  constructor(onChange: (count: number) => void = () => {}) {
    this.#onChange = onChange;
  }

  /** Create an unfinished file in a folder. */
  create(folder: string, mode: number | undefined): Temporary {
    removeOrphans(folder);
    const own = `${machineName()}-${process.pid}-${node.crypto.randomBytes(4).toString("hex")}`;
    const path = node.path.join(folder, `.flashfftconv-${own}.partial`);
    // Announced before it is there: an interruption right after its creation must find it.
    this.#paths.add(path);
    this.#onChange(this.#paths.size);
    try {
      const descriptor = node.fs.openSync(path, "wx", 0o666);
      if (mode !== undefined) node.fs.fchmodSync(descriptor, mode);
      return { path, descriptor };
    } catch (error) {
      this.#paths.delete(path);
      this.#onChange(this.#paths.size);
      throw error;
    }
  }

  /** Give a finished file its name. */
  finish(path: string, name: string): void {
    node.fs.renameSync(path, name);
    this.#paths.delete(path);
    this.#onChange(this.#paths.size);
  }

  /** Remove one unfinished file, or all. */
  remove(paths: Iterable<string> = [...this.#paths]): void {
    for (const path of paths) {
      node.fs.rmSync(path, { force: true });
      this.#paths.delete(path);
    }
    this.#onChange(this.#paths.size);
  }
}

/** Remove the unfinished files of this machine's processes that are no more. */
function removeOrphans(folder: string): void {
  const pattern = /^\.flashfftconv-([A-Za-z0-9_-]+)-(\d+)-[0-9a-f]{8}\.partial$/;
  let names: readonly string[] = [];
  try {
    names = node.fs.readdirSync(folder);
  } catch {
    // A folder may be written to and not be read: then nothing is known of its files.
  }
  for (const name of names) {
    const [, machine, id] = pattern.exec(name) ?? [];
    if (machine !== machineName() || isRunning(Number(id))) continue;
    try {
      node.fs.rmSync(node.path.join(folder, name), { force: true });
    } catch {
      // Another user's, whose business it is.
    }
  }
}

function isRunning(id: number): boolean {
  try {
    return process.kill(id, 0);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== "ESRCH";
  }
}
