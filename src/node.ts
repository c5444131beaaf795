/** Modules of Node, asked for by a call that bundlers for browsers do not follow. */

export interface NodeModules {
  readonly "node:crypto": typeof import("node:crypto");
  readonly "node:fs": typeof import("node:fs");
  readonly "node:os": typeof import("node:os");
  readonly "node:path": typeof import("node:path");
  readonly "node:worker_threads": typeof import("node:worker_threads");
}

/** A module of Node; undefined where there is no Node, or one before 20.16. */
export function nodeModule<N extends keyof NodeModules>(name: N): NodeModules[N] | undefined {
  const { process } = globalThis as { process?: { getBuiltinModule?: (id: string) => unknown } };
  return process?.getBuiltinModule?.(name) as NodeModules[N] | undefined;
}
