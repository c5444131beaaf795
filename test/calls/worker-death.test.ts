/** Worker threads that end while the object lives: a typed error or the right answer, never a hang. */
import { describe, expect, test } from "vitest";
import { openCpu } from "../../src/backend/cpu/backend.ts";
import { BackendError, type SampleArray } from "../../src/index.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import { describeBackends, onCpu } from "../support/backends.ts";
import { checkBackward, checkForward, drawInputs, type Inputs } from "../support/cases.ts";
import { expectClose } from "../support/close.ts";

/** Rows that threads take one by one, and rows that they share. */
const inputsOf = [
  drawInputs(createProblem({ length: 700 }, "test"), { batch: 8, channels: 8, pregate: true }, 1),
  drawInputs(createProblem({ length: 100_000 }, "test"), { batch: 4 }, 2),
  drawInputs(createProblem({ length: 1_000_000 }, "test"), { batch: 1 }, 3),
].map((inputs): [number, Inputs] => [inputs.problem.length, inputs]);

describe("a worker thread ends", () => {
  describeBackends(
    "threads",
    (open, configuration) => {
      const { instructions } = onCpu(configuration);
      const endOneWorker = async () => {
        const { pool } = openCpu({ instructions, shared: true }, "test");
        // Missing only while it is being replaced.
        pool?.workers[0]?.terminate();
        return pool !== undefined;
      };

      test.each(inputsOf)("between calls: %i samples", async (length, inputs) => {
        using conv = await open({ length });
        await checkForward(conv, inputs);
        expect(await endOneWorker()).toBe(true);
        // At once, before the end is known; and again, when it is.
        await answerOrBackendError(conv.forward(inputs.u, inputs.k, inputs.options), inputs);
        await settled();
        await checkForward(conv, inputs);
        await checkBackward(conv, inputs);
        await endOneWorker();
        await settled();
        await answerOrBackendError(conv.forward(inputs.u, inputs.k, inputs.options), inputs);
        await checkForward(conv, inputs);
      });

      // What threads of the broken pool still do must not reach the calls that follow on new threads.
      test.each(inputsOf)("during calls: %i samples", async (length, inputs) => {
        using conv = await open({ length });
        const rounds = length > 500_000 ? 5 : 20;
        for (let round = 0; round < rounds; round++) {
          const calls = [1, 2, 3].map(() => conv.forward(inputs.u, inputs.k, inputs.options));
          // The end of the round before may fail them while nobody awaits them yet.
          for (const call of calls) call.catch(() => {});
          if (round % 2) await new Promise((resolve) => setTimeout(resolve, round));
          await endOneWorker();
          for (const call of calls) await answerOrBackendError(call, inputs);
        }
        await settled();
        await checkForward(conv, inputs);
      });

      test("while a kernel is prepared, and before dispose", async () => {
        const [, inputs] = inputsOf[0]!;
        const conv = await open({ length: 700 });
        const preparing = conv.prepareKernel(inputs.k);
        await endOneWorker();
        const kernel = await preparing.catch((error) => {
          expect(error).toBeInstanceOf(BackendError);
          return undefined;
        });
        kernel?.dispose();
        await endOneWorker();
        conv.dispose();
        await settled();
        using next = await open({ length: 900 });
        await checkForward(next, drawInputs(next.problem, {}, 1));
      });
    },
    { threads: 2, instructions: ["simd"] },
  );
});

/** Time for the end of a thread to become known. */
function settled(): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 200));
}

async function answerOrBackendError(
  call: Promise<SampleArray>,
  { problem, y }: Inputs,
): Promise<void> {
  const outcome = await call.then(
    (answer) => ({ answer }),
    (error: unknown) => ({ error }),
  );
  if ("error" in outcome) expect(outcome.error).toBeInstanceOf(BackendError);
  else expectClose(outcome.answer, y(), { rowLength: problem.outputLength, bound: 1e-6 });
}
