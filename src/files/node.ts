/** Modules of Node, asked for when they are used: a page may import whatever names them here, and bundlers see none. */
import { UnsupportedError } from "../errors.ts";
import type { NodeModules } from "../node.ts";
import { nodeModule } from "../node.ts";

function moduleOf<N extends keyof NodeModules>(name: N): NodeModules[N] {
  const found = nodeModule(name);
  if (found !== undefined) return found;
  throw new UnsupportedError({
    call: "files",
    requirement: "paths of files need Node 20.16 or newer",
    value: "a runtime without its modules",
    remedy: "Give the bytes, or a Blob, instead of a path.",
  });
}

/** @throws UnsupportedError where there is no Node. */
export const node = {
  get crypto(): NodeModules["node:crypto"] {
    return moduleOf("node:crypto");
  },
  get fs(): NodeModules["node:fs"] {
    return moduleOf("node:fs");
  },
  get os(): NodeModules["node:os"] {
    return moduleOf("node:os");
  },
  get path(): NodeModules["node:path"] {
    return moduleOf("node:path");
  },
} as const;
