/**
 * The packed package in pages of every bundler, cross-origin isolated or not, in Chromium: right answers on all threads
 * there are; one thread and one warning where workers do not start, and never a call that fails.
 */
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, describe, expect, test } from "vitest";
import { isolation, serveSite } from "../browser/server.ts";
import { checkInPage, describeInChromium, type OpenPage } from "../support/chromium.ts";
import { buildPage, installPackage, pageOf, ways, workerFile } from "./sites.ts";

const plain = (): Record<string, string> => ({});
const isolated = (): Readonly<Record<string, string>> => isolation;
/** Work enough for threads to be worth starting. */
const options = { length: 4000 };

describeInChromium("bundled, in Chromium", (chromium) => {
  const folder = mkdtempSync(join(tmpdir(), "flashfftconv-bundlers-"));
  const app = join(folder, "app");
  const outOf = (name: string): string => join(folder, name.replace(/ /g, "-"));

  beforeAll(() => {
    mkdirSync(app);
    installPackage(app);
  });

  afterAll(() => rmSync(folder, { recursive: true, force: true }));

  const serve = async (...site: Parameters<typeof serveSite>): Promise<string> =>
    (await chromium.serve(serveSite(...site))).address;
  const open = (address: string): Promise<OpenPage> => chromium.openLibrary(address);

  /** Right answers on one thread; one warning of ours, and the browser's own errors about the file it could not load. */
  async function expectOneThread({ page, errors, warnings }: OpenPage, asked = {}): Promise<void> {
    for (const round of [1, 2]) {
      const answer = await checkInPage(page, { ...options, ...asked });
      expect(answer, `round ${round}`).toMatchObject({ isolated: true, threads: 1 });
      expect(answer.explanation).toMatch(/note: one thread: workers do not start/);
    }
    expect(warnings).toEqual([expect.stringMatching(/^flashfftconv: worker threads do not start/)]);
    expect(errors.filter((text) => !/Failed to load resource|ERR_BLOCKED/.test(text))).toEqual([]);
  }

  /** Right answers on all cores, and nothing to say. */
  async function expectAllThreads({ page, errors, warnings }: OpenPage, asked = {}): Promise<void> {
    const cores = await page.evaluate(() => navigator.hardwareConcurrency);
    expect(await checkInPage(page, { ...options, ...asked })).toMatchObject({
      isolated: true,
      threads: cores,
    });
    expect(page.workers().length).toBeGreaterThan(0);
    expect({ errors, warnings }).toEqual({ errors: [], warnings: [] });
  }

  describe.each(ways)("$name", (way) => {
    const out = outOf(way.name);
    const asked = (address: string): object =>
      way.followsWorker ? {} : { workerUrl: new URL(workerFile, address).href };

    test("builds without a warning", async () => {
      expect(await buildPage(way, { app, out })).toEqual([]);
    });

    test("an isolated page has all threads and the right answers", async () => {
      const address = await serve({ folder: out, headers: isolated });
      await expectAllThreads(await open(address), asked(address));
    });

    test("any other page has one thread and the right answers", async () => {
      const { page, errors, warnings } = await open(await serve({ folder: out, headers: plain }));
      expect(await checkInPage(page, options)).toMatchObject({ isolated: false, threads: 1 });
      expect({ errors, warnings }).toEqual({ errors: [], warnings: [] });
    });

    const without = way.followsWorker ? "with headers for the HTML only" : "without workerUrl";
    test(`an isolated page ${without} has one thread, and says why`, async () => {
      const partly = (path: string) => (path.endsWith(".html") ? isolation : {});
      const headers = way.followsWorker ? partly : isolated;
      await expectOneThread(await open(await serve({ folder: out, headers })));
    });
  });

  describe("from another origin", () => {
    /** A page that imports the library from a server of its own, as from a CDN. */
    async function openWithCdn(): Promise<{ opened: OpenPage; cdn: string; home: string }> {
      const shared = () => ({ "Access-Control-Allow-Origin": "*" });
      const cdn = await serve({ folder: join(app, "node_modules"), headers: shared });
      const script = `import { FlashFFTConv } from "${cdn}flashfftconv/dist/index.js";
        globalThis.library = { FlashFFTConv };`;
      const pages = { "/index.html": pageOf(`<script type="module">${script}</script>`) };
      const home = await serve({
        folder: join(app, "node_modules/flashfftconv"),
        pages,
        headers: isolated,
      });
      return { opened: await open(home), cdn, home };
    }

    test("one thread, and the right answers", async () => {
      await expectOneThread((await openWithCdn()).opened);
    });

    test("all threads with a workerUrl of the page's own origin", async () => {
      const { opened, home } = await openWithCdn();
      await expectAllThreads(opened, { workerUrl: `${home}dist/worker.js` });
    });

    test("all threads with the other origin's worker as workerUrl", async () => {
      const { opened, cdn } = await openWithCdn();
      await expectAllThreads(opened, { workerUrl: `${cdn}flashfftconv/dist/worker.js` });
    });
  });
});
