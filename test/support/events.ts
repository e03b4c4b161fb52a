/** One Server-Sent Event. */
export interface ServerSentEvent {
  readonly id: string | undefined;
  readonly event: string | undefined;
  // biome-ignore lint/suspicious/noExplicitAny: the data is read field by field
  readonly data: any;
}

/** Reads events as EventSource does; `close` disconnects. */
export async function openEvents(url: string, headers: Record<string, string> = {}) {
  const controller = new AbortController();
  const response = await fetch(url, { headers, signal: controller.signal });
  const chunks = response.body?.pipeThrough(new TextDecoderStream())[Symbol.asyncIterator]();
  let text = '';
  return {
    status: response.status,
    type: response.headers.get('content-type'),
    close: () => controller.abort(),
    async next(): Promise<ServerSentEvent> {
      for (;;) {
        const end = text.indexOf('\n\n');
        if (end === -1) {
          const { value = '', done } = (await chunks?.next()) ?? { done: true };
          if (done === true) throw new Error(`the stream ended: ${text}`);
          text += value;
          continue;
        }
        const lines = text.slice(0, end).split('\n');
        text = text.slice(end + 2);
        const field = (name: string) => lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
        const data = field('data');
        if (data !== undefined) return { id: field('id'), event: field('event'), data: JSON.parse(data) };
      }
    },
    async body() {
      let rest = text;
      for (let next = await chunks?.next(); next?.done === false; next = await chunks?.next()) rest += next.value;
      return rest === '' ? undefined : JSON.parse(rest);
    },
  };
}
