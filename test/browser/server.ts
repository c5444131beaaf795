/** A web server for the built package: a page that imports it, and dist/ beside. */
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { extname } from "node:path";
import { fileURLToPath } from "node:url";

const root = new URL("../../", import.meta.url);
const types: Readonly<Record<string, string>> = {
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
const isolation = {
  "Cross-Origin-Opener-Policy": "same-origin",
  "Cross-Origin-Embedder-Policy": "require-corp",
};

/** A running server. */
export interface PackageServer {
  /** The page's address. */
  readonly address: string;
  /** Paths that were asked for and not there. */
  readonly missing: readonly string[];
  close(): Promise<void>;
}

/** Serve the page with the headers of cross-origin isolation, or without. */
export async function servePackage(isolated: boolean): Promise<PackageServer> {
  const missing: string[] = [];
  const headers = isolated ? isolation : {};
  const server = createServer(async (request, response) => {
    const { pathname } = new URL(request.url ?? "/", "http://localhost");
    if (pathname === "/") {
      response.writeHead(200, { ...headers, "Content-Type": "text/html" });
      response.end(html);
      return;
    }
    // The URL class has resolved any `..`, so the path cannot leave dist/.
    const body = pathname.startsWith("/dist/")
      ? await readFile(fileURLToPath(new URL(`.${pathname}`, root))).catch(() => undefined)
      : undefined;
    if (body) {
      const type = types[extname(pathname)] ?? "application/octet-stream";
      response.writeHead(200, { ...headers, "Content-Type": type });
    } else {
      missing.push(pathname);
      response.writeHead(404, headers);
    }
    response.end(body);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    address: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    missing,
    close: () =>
      new Promise((resolve, reject) => {
        server.close((error) => (error ? reject(error) : resolve()));
        server.closeAllConnections();
      }),
  };
}
