/** What the benches ask of a device besides the library: how long commands take, and what a buffer holds. */

/** Milliseconds from submitting commands to an idle device until they are done. */
export async function timedSubmission(
  device: GPUDevice,
  encoder: GPUCommandEncoder,
): Promise<number> {
  const commands = encoder.finish();
  await device.queue.onSubmittedWorkDone();
  const start = performance.now();
  device.queue.submit([commands]);
  await device.queue.onSubmittedWorkDone();
  return performance.now() - start;
}

/** The first bytes of a buffer, a multiple of four of them. */
export async function readBytes(
  device: GPUDevice,
  buffer: GPUBuffer,
  bytes: number,
): Promise<ArrayBuffer> {
  // MAP_READ and COPY_DST: the names are globals in browsers alone.
  const staging = device.createBuffer({ size: bytes, usage: 0x9 });
  const encoder = device.createCommandEncoder();
  encoder.copyBufferToBuffer(buffer, 0, staging, 0, bytes);
  device.queue.submit([encoder.finish()]);
  await staging.mapAsync(0x1);
  const copy = staging.getMappedRange().slice(0);
  staging.unmap();
  staging.destroy();
  return copy;
}
