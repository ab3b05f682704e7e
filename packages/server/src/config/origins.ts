/** Whether a URL is an origin alone: scheme, host and port. */
export function isPlainOrigin(url: URL): boolean {
  return url.pathname === '/' && url.search === '' && url.hash === '' && url.username === '' && url.password === '';
}
