/**
 * The console's own address, with a slash at its end. A built chunk is in `assets/` below it, so it
 * is found behind any path prefix.
 */
const consoleUrl = new URL(import.meta.env.DEV ? import.meta.env.BASE_URL : '../', import.meta.url);

/** The path of the console without the slash at its end: the base of all routes. */
export const consolePath = consoleUrl.pathname.replace(/\/$/, '');

/** The service's address: the parent of the console. */
export const serviceUrl = new URL('../', consoleUrl).href.replace(/\/$/, '');
