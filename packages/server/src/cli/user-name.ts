import { userInfo } from 'node:os';

/** Who works by hand, for the audit and for those who ask later. In a container he may have no name. */
export function userName(): string {
  try {
    return userInfo().username;
  } catch {
    return String(process.geteuid?.() ?? 'unknown');
  }
}
