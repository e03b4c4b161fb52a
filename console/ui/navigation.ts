let first: string | undefined;
let navigated = false;

/** Called with each path; the first one is where the browser opened the console. */
export function noteLocation(path: string): void {
  first ??= path;
  if (path !== first) navigated = true;
}

/** Whether the user has moved from the page that the browser opened. */
export function hasNavigated(): boolean {
  return navigated;
}
