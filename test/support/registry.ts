/** Whether npm reaches its registry: an answer that fails to come is asked for again, sooner than npm does by itself. */
export const npmPing = ['ping', '--fetch-retries=3', '--fetch-retry-mintimeout=1000', '--fetch-retry-maxtimeout=5000'];
