/** Web servers for pages under test: the built package with a page that imports it, or any folder. */
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { extname, join } from "node:path";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("../../", import.meta.url));
const types: Readonly<Record<string, string>> = {
  ".html": "text/html",
  ".js": "text/javascript",
  ".json": "application/json",
  ".map": "application/json",
};

/** A page as a user would write it; `library` is there when the module has loaded. */
const html = `<!doctype html>
<title>flashfftconv</title>
<link rel="icon" href="data:,">
<script type="module">
  import * as library from "/dist/index.js";
  globalThis.library = library;
</script>`;

/** What the two headers do to a page: only an isolated one gets memory that threads can share. */
export const isolation: Readonly<Record<string, string>> = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};

/** What a server serves. */
export interface Site {
  readonly folder: string;
  /** Pages that are not in the folder, by their paths. */
  readonly pages?: Readonly<Record<string, string>>;
  /** Headers of the answer for a path. */
  readonly headers: (path: string) => Readonly<Record<string, string>>;
}

/** A running server. */
export interface SiteServer {
  /** The address of its page. */
  readonly address: string;
  /** Paths that were asked for, in their order. */
  readonly asked: readonly string[];
  /** Those that were not there. */
  readonly missing: readonly string[];
  close(): Promise<void>;
}

/** Serve a site on a port of this machine. */
export async function serveSite({ folder, pages, headers }: Site): Promise<SiteServer> {
  const asked: string[] = [];
  const missing: string[] = [];
  const server = createServer(async (request, response) => {
    const { pathname } = new URL(request.url ?? "/", "http://localhost");
    const path = pathname === "/" ? "/index.html" : pathname;
    asked.push(path);
    // The URL class has resolved any `..`, so the path cannot leave the folder.
    const body = pages?.[path] ?? (await readFile(join(folder, path)).catch(() => undefined));
    if (body === undefined) missing.push(path);
    const type = types[extname(path)] ?? "application/octet-stream";
    response.writeHead(body === undefined ? 404 : 200, { ...headers(path), "Content-Type": type });
    response.end(body);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    address: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    asked,
    missing,
    close: () =>
      new Promise((resolve, reject) => {
        server.close((error) => (error ? reject(error) : resolve()));
        server.closeAllConnections();
      }),
  };
}

/** Serve the built package's page with the headers of cross-origin isolation, or without, and with others. */
export function servePackage(
  isolated: boolean,
  others: Readonly<Record<string, string>> = {},
): Promise<SiteServer> {
  const headers = { ...(isolated ? isolation : {}), ...others };
  return serveSite({ folder: root, pages: { "/index.html": html }, headers: () => headers });
}
