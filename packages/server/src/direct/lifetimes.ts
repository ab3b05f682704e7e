/** Of a download's URL. In a file of its own: the embedded routes need it, and nothing of the workflows. */
export const maxDownloadLifetimeMs = 5 * 60_000;
