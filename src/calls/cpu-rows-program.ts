export const compileRows = (..._: unknown[]): Promise<any> => {
  throw new Error("not yet");
};
export const runRows = (..._: unknown[]): any => {};
