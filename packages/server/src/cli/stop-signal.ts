const signalNumbers = { SIGINT: 2, SIGTERM: 15 } as const;
type StopSignal = keyof typeof signalNumbers;

/**
 * Under `npm start` a Ctrl-C arrives twice: from the terminal, and passed on by npm. Within this time they are one.
 */
const sameSignalMs = 500;

/** Resolves at the first signal to stop; the second one ends the process. */
export function stopSignal(onFirst: (signal: StopSignal) => void): Promise<void> {
  let firstMs: number | undefined;
  const isUnderNpm = process.env.npm_lifecycle_event !== undefined;
  return new Promise((resolve) => {
    const onSignal = (signal: StopSignal): void => {
      const nowMs = performance.now();
      if (firstMs === undefined) {
        firstMs = nowMs;
        onFirst(signal);
        resolve();
      } else if (!isUnderNpm || nowMs - firstMs > sameSignalMs) {
        process.exit(128 + signalNumbers[signal]);
      }
    };
    process.on('SIGINT', onSignal);
    process.on('SIGTERM', onSignal);
  });
}
