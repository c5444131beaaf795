/** Code that a guide shows, so that tests run it. */
import { readFileSync } from "node:fs";

/** The snippet of docs/`file` below the comment `<!-- mark: … -->`. */
export function snippetOf(file: string, mark: string): string {
  const guide = readFileSync(new URL(`../../docs/${file}`, import.meta.url), "utf8");
  const found = new RegExp(`<!-- ${mark}: [^\\n]*\\n\\n\`\`\`js\\n(.*?)\`\`\``, "s").exec(guide);
  if (!found) throw new Error(`docs/${file} has no snippet "${mark}"`);
  return found[1]!;
}
