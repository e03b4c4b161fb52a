/**
 * Maps each item of a stream. One promise per item: a generator takes three, which counts for a
 * message to 500 readers.
 */
export function mapIterable<T, U>(items: AsyncIterable<T>, map: (item: T) => U): AsyncIterable<U> {
  return {
    [Symbol.asyncIterator]() {
      const iterator = items[Symbol.asyncIterator]();
      const mapped = async (step: Promise<IteratorResult<T>>): Promise<IteratorResult<U>> => {
        const { done, value } = await step;
        return done === true ? { done, value: undefined } : { done: false, value: map(value) };
      };
      return {
        next: () => mapped(iterator.next()),
        return: () => mapped(iterator.return?.() ?? Promise.resolve({ done: true, value: undefined })),
        throw: (error) => mapped(iterator.throw?.(error) ?? Promise.reject(error)),
      };
    },
  };
}
