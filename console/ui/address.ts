import { useMemo } from 'react';
import { useLocation } from 'wouter';
import { usePathname, useSearch } from 'wouter/use-browser-location';
import { consolePath } from '../shell/paths.ts';

/**
 * The steps of the page's address, decoded: `/batches/x` gives `batches` and `x`. The router's own
 * parameters are decoded by `decodeURI`, which mistakes an id with a percent sign.
 */
export function useSegments(): readonly string[] {
  const pathname = usePathname();
  return useMemo(() => pathname.slice(consolePath.length).split('/').filter(Boolean).map(decodeSegment), [pathname]);
}

function decodeSegment(segment: string): string {
  try {
    return decodeURIComponent(segment);
  } catch {
    return segment;
  }
}

/** A path of the console from its steps: `pathOf('channels', 2, 'a/b')`. */
export function pathOf(...segments: readonly (string | number)[]): string {
  return `/${segments.map((each) => encodeURIComponent(each)).join('/')}`;
}

type Query = Readonly<Record<string, string>>;

/**
 * The query of the page's address, and how to change it. Filters and positions are kept there, so
 * that a page can be shared as it is. An empty value is removed.
 */
export function useQueryParams(): readonly [URLSearchParams, (change: Query, options?: { push?: boolean }) => void] {
  const search = useSearch();
  const [path, navigate] = useLocation();
  return useMemo(() => {
    const params = new URLSearchParams(search);
    const change = (values: Query, { push = false } = {}) => {
      const next = new URLSearchParams(window.location.search);
      for (const [name, value] of Object.entries(values)) {
        if (value === '') next.delete(name);
        else next.set(name, value);
      }
      const text = next.toString();
      // The raw path: the router's is decoded.
      const here = window.location.pathname.slice(consolePath.length) || path;
      navigate(text === '' ? here : `${here}?${text}`, { replace: !push });
    };
    return [params, change] as const;
  }, [search, path, navigate]);
}
