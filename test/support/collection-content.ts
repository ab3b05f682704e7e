/** Large texts that are known by their names: made, and checked, on both sides of a workflow's sandbox. */

/** As JSON, more than what the plugin leaves inline. */
const chars = 130_000;

/** The text of a name: its name, a line feed, and characters that no other name has. */
export function large(name: string): string {
  let state = 2_166_136_261;
  for (const character of name) state = Math.imul(state ^ character.charCodeAt(0), 16_777_619);
  state ||= 1;
  const parts = [name, '\n'];
  for (let length = name.length; length < chars; length += 8) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    parts.push((state >>> 0).toString(16).padStart(8, '0'));
  }
  return parts.join('');
}

/** The name of a text. Throws when any of its characters is wrong. */
export function nameOf(text: unknown): string {
  const name = typeof text === 'string' ? text.slice(0, text.indexOf('\n')) : undefined;
  if (name === undefined || text !== large(name)) throw new Error(`not a text of ours: ${`${text}`.slice(0, 100)}`);
  return name;
}

/** Throws unless it is the text of this name. */
export function requireText(text: unknown, name: string): void {
  if (text !== large(name)) throw new Error(`not the text of "${name}": ${`${text}`.slice(0, 100)}`);
}
