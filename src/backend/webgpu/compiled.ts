/** Schedules on a WebGPU device: bind groups are made once for given ranges, commands are added as often as asked. */
import type { Kernel, OwnParameters } from "../../kernels/gpu/kernel.ts";
import { parameterNames } from "../../kernels/gpu/kernel.ts";
import type { Schedule, ScheduleStep } from "../../schedule/schedule.ts";
import type { ScratchLayout } from "../../schedule/scratch.ts";
import { layOutScratch } from "../../schedule/scratch.ts";
import type { BoundSchedule, CompiledSchedule, GpuRange, GpuRanges } from "../gpu.ts";
import { usage } from "./buffers.ts";

/** What commands are added to: an encoder, which gets a compute pass, or a pass that is open. */
export type CommandTarget = GPUCommandEncoder | GPUComputePassEncoder;

/** Compiled kernels that somebody needs, until given to `spare`. */
export type Pipelines = ReadonlyMap<Kernel, GPUComputePipeline>;

/** Bytes that the parameters of one step are apart: the largest alignment of uniform bindings that WebGPU allows. */
const parameterBytes = 256;

/** Most workgroups in one dimension. */
const mostGroups = 65_535;

/** A dispatch, bound. */
interface BoundStep {
  readonly pipeline: GPUComputePipeline;
  readonly group: GPUBindGroup;
  readonly columns: number;
  readonly rows: number;
}

/** A schedule whose kernels are compiled and whose parameters are uploaded. */
export class WebGpuSchedule implements CompiledSchedule<GPUBuffer, CommandTarget> {
  readonly schedule: Schedule<string>;
  readonly pipelines: Pipelines;
  readonly parameters: GPUBuffer;
  readonly #device: GPUDevice;
  readonly #tables: GpuRanges<GPUBuffer>;
  readonly #scratch: ScratchLayout;

  constructor(
    device: GPUDevice,
    schedule: Schedule<string>,
    pipelines: Pipelines,
    tables: GpuRanges<GPUBuffer>,
  ) {
    const { minStorageBufferOffsetAlignment, maxBufferSize } = device.limits;
    this.schedule = schedule;
    this.pipelines = pipelines;
    this.parameters = uploadParameters(device, schedule);
    this.#device = device;
    this.#tables = tables;
    this.#scratch = layOutScratch(schedule, minStorageBufferOffsetAlignment, maxBufferSize);
  }

  get scratchBytes(): readonly number[] {
    return this.#scratch.bytes;
  }

  bind(
    ranges: GpuRanges<GPUBuffer>,
    scratch: readonly GpuRange<GPUBuffer>[],
  ): BoundSchedule<CommandTarget> {
    const layouts = new Map(
      [...this.pipelines].map(([kernel, pipeline]) => [kernel, pipeline.getBindGroupLayout(0)]),
    );
    const rangeOf = (name: string): GpuRange<GPUBuffer> => {
      const given = ranges[name] ?? this.#tables[name];
      if (given) return given;
      const { index, offset } = this.#scratch.places.get(name)!;
      const lent = scratch[index]!;
      return { buffer: lent.buffer, offset: (lent.offset ?? 0) + offset };
    };
    const steps = this.schedule.steps.map((step, i): BoundStep => {
      const { kernel, tiles } = step;
      const entries = this.#entries(step, i, rangeOf);
      const groups = Math.ceil(tiles / kernel.tiles);
      const rows = Math.ceil(groups / mostGroups);
      return {
        pipeline: this.pipelines.get(kernel)!,
        group: this.#device.createBindGroup({ layout: layouts.get(kernel)!, entries }),
        columns: Math.ceil(groups / rows),
        rows,
      };
    });
    return new BoundSteps(steps);
  }

  #entries(
    { kernel, ranges }: ScheduleStep<string>,
    index: number,
    rangeOf: (name: string) => GpuRange<GPUBuffer>,
  ): GPUBindGroupEntry[] {
    const at = index * parameterBytes;
    const resource = { buffer: this.parameters, offset: at, size: parameterBytes };
    return [
      { binding: 0, resource },
      ...kernel.bindings.map(({ name }, i) => {
        const { buffer: wanted, offset: from, size } = ranges[name]!;
        const { buffer, offset: begin = 0 } = rangeOf(wanted);
        const offset = begin + from;
        // A range may end within the word that a binding ends with, and that word may be the buffer's last.
        const bytes = Math.min(size || buffer.size, buffer.size - offset);
        return { binding: i + 1, resource: { buffer, offset, size: bytes } };
      }),
    ];
  }
}

/** The dispatches of a schedule, bound. */
class BoundSteps implements BoundSchedule<CommandTarget> {
  readonly #steps: readonly BoundStep[];

  constructor(steps: readonly BoundStep[]) {
    this.#steps = steps;
  }

  get dispatches(): number {
    return this.#steps.length;
  }

  encode(into: CommandTarget): void {
    if (!("beginComputePass" in into)) {
      this.#dispatch(into);
      return;
    }
    const pass = into.beginComputePass();
    this.#dispatch(pass);
    pass.end();
  }

  #dispatch(pass: GPUComputePassEncoder): void {
    let current: GPUComputePipeline | undefined;
    for (const { pipeline, group, columns, rows } of this.#steps) {
      if (pipeline !== current) pass.setPipeline(pipeline);
      current = pipeline;
      pass.setBindGroup(0, group);
      pass.dispatchWorkgroups(columns, rows);
    }
  }
}

function uploadParameters(device: GPUDevice, { steps }: Schedule<string>): GPUBuffer {
  const buffer = device.createBuffer({
    size: Math.max(1, steps.length) * parameterBytes,
    usage: usage.uniform,
    mappedAtCreation: true,
  });
  const words = new Uint32Array(buffer.getMappedRange());
  steps.forEach(({ kernel, parameters }, i) => {
    const values: OwnParameters = parameters;
    const names: readonly string[] = kernel.parameters ?? parameterNames;
    words.set(
      names.map((name) => values[name] ?? 0),
      (i * parameterBytes) / 4,
    );
  });
  buffer.unmap();
  return buffer;
}
