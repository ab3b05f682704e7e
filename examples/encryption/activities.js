/**
 * @typedef {object} Case
 * @property {string} name
 * @property {string} findings
 */

/**
 * A large result.
 * @param {Case} patient
 */
export async function examine({ name, findings }) {
  return { name, diagnosis: 'healthy', findings: findings.toUpperCase() };
}

/**
 * A small result.
 * @param {Case & { diagnosis: string }} report
 */
export async function notify({ name, diagnosis, findings }) {
  return `${name} is ${diagnosis}: ${findings.length} characters of findings`;
}
