/** A response of a JSON route. */
export interface JsonAnswer {
  readonly status: number;
  // biome-ignore lint/suspicious/noExplicitAny: the bodies are read field by field
  readonly body: any;
}

/** Calls the JSON routes of a service, with headers of its own. */
export function jsonCaller(url: string, headers: Record<string, string> = {}) {
  const ask = async (path: string, init: RequestInit): Promise<JsonAnswer> => {
    const response = await fetch(url + path, { ...init, headers });
    const text = await response.text();
    return { status: response.status, body: text === '' ? undefined : JSON.parse(text) };
  };
  return {
    post: (path: string, body: unknown) => ask(path, { method: 'POST', body: JSON.stringify(body) }),
    get: (path: string) => ask(path, {}),
  };
}
