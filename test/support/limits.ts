/** Calls under limits that the device of a test does not have. */
import { WebGpuBackend } from "../../src/backend/webgpu/device.ts";
import type { Dtype, SampleArray } from "../../src/dtype.ts";
import type { FlashFFTConv } from "../../src/index.ts";
import { createProblem } from "../../src/plan/create-problem.ts";
import type { ProblemOptions } from "../../src/plan/problem.ts";
import type { GpuCall, GpuLimits, Schedule } from "../../src/schedule/schedule.ts";
import { checkBackward, checkForward, drawInputs, type Inputs } from "./cases.ts";
import { openAdapter, runSchedule } from "./gpu.ts";
import { namedScheduler } from "./plans.ts";

const like = (values: SampleArray, length: number): SampleArray =>
  new (values.constructor as Float32ArrayConstructor)(length);

/** Forward and backward of a problem by a named plan, under other limits than its device's; the steps of both. */
export async function checkUnder(
  options: ProblemOptions,
  text: string,
  { batch, channels }: { readonly batch: number; readonly channels: number },
  override: Partial<GpuLimits>,
): Promise<{ forward: number; backward: number }> {
  const adapter = await openAdapter();
  const most = "maxStorageBuffersPerShaderStage";
  const device = await adapter.requestDevice({ requiredLimits: { [most]: adapter.limits[most] } });
  const backend = await WebGpuBackend.open(device, "test");
  const limits = { ...backend.limits(2 ** 28), ...override };
  const problem = createProblem(options, "test");
  const skip = problem.outputLength === problem.length;
  const inputs = drawInputs(problem, { pregate: true, postgate: true, batch, channels, skip }, 5);
  const scheduler = namedScheduler(text, problem, limits, { batch, channels });
  const call: GpuCall = {
    ...{ batch, channels, pregate: true, postgate: true, skip },
    ...{ taps: "float32", offsets: {} },
  };
  const steps = { forward: 0, backward: 0 };
  const { u, k, dy, options: tensors } = inputs;
  const run = <R extends Record<string, SampleArray>>(schedule: Schedule, results: R) =>
    runSchedule(
      backend,
      schedule,
      limits,
      { ...scheduler.tables(), u, k, dy, ...tensors },
      results,
    );
  const runner = {
    explain: () => ({ chosen: { plan: text } }),
    forward: async () => {
      const schedule = scheduler.forward(call);
      steps.forward = schedule.steps.length;
      return (await run(schedule, { y: like(inputs.u, inputs.dy.length) })).y;
    },
    backward: () => {
      const schedule = scheduler.backward(call);
      steps.backward = schedule.steps.length;
      return run(schedule, {
        ...{ du: like(inputs.u, inputs.u.length), dpregate: like(inputs.u, inputs.u.length) },
        ...{ dpostgate: like(inputs.u, inputs.dy.length), dk: new Float32Array(inputs.k.length) },
        ...(skip && { dskip: new Float32Array(channels) }),
      });
    },
  };
  const conv = runner as unknown as FlashFFTConv<Dtype>;
  await checkForward(conv, inputs as Inputs);
  await checkBackward(conv, inputs as Inputs);
  device.destroy();
  return steps;
}
