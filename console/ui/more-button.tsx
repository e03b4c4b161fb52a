import { useTexts } from '../i18n/use-texts.ts';
import { uiTexts } from './texts.ts';

export interface MoreButtonProps {
  readonly hasNextPage: boolean;
  readonly isFetchingNextPage: boolean;
  readonly fetchNextPage: () => Promise<unknown>;
}

/** Reads the next page of a list, where there is one. */
export function MoreButton({ hasNextPage, isFetchingNextPage, fetchNextPage }: MoreButtonProps) {
  const ui = useTexts(uiTexts);
  if (!hasNextPage) return null;
  return (
    <div className="row">
      <button type="button" className="button" disabled={isFetchingNextPage} onClick={() => void fetchNextPage()}>
        {isFetchingNextPage ? ui('loading') : ui('more')}
      </button>
    </div>
  );
}

/** The token of the next page of a list; undefined on the last one. */
export function nextPageOf({ nextPageToken }: { readonly nextPageToken?: string | undefined }): string | undefined {
  return nextPageToken === '' ? undefined : nextPageToken;
}
