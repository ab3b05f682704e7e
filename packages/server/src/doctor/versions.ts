/** `20.19.0`, `v20`, `>=20.19`, `^8.7.1` → its numbers; what stands behind a `-` or a space is left out. */
export function numbersOf(text: string): readonly number[] {
  const match = /(\d+)(?:\.(\d+))?(?:\.(\d+))?/.exec(text);
  return (match?.slice(1) ?? []).filter((part) => part !== undefined).map(Number);
}

/** Whether `version` is `least` or newer, as far as `least` says: 20.19.4 is at least 20.19. */
export function isAtLeast(version: string, least: string): boolean {
  const have = numbersOf(version);
  for (const [index, wanted] of numbersOf(least).entries()) {
    const part = have[index] ?? 0;
    if (part !== wanted) return part > wanted;
  }
  return true;
}
