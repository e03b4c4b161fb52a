import { type ReactNode, useEffect, useId, useLayoutEffect, useRef } from 'react';
import { useTexts } from '../i18n/use-texts.ts';
import { uiTexts } from './texts.ts';

export interface DialogProps {
  readonly title: string;
  readonly isOpen: boolean;
  readonly onClose: () => void;
  readonly children: ReactNode;
  /** Buttons besides Cancel, which is first. */
  readonly actions?: ReactNode;
  /** Replaces the word Cancel. */
  readonly closeLabel?: string;
  readonly isWide?: boolean;
}

/**
 * A modal dialog: the browser's own, which keeps the focus inside, closes with Escape, and gives
 * the focus back. The first button has the focus at the start, and it changes nothing.
 */
export function Dialog({ title, isOpen, onClose, children, actions, closeLabel, isWide }: DialogProps) {
  const t = useTexts(uiTexts);
  const dialog = useRef<HTMLDialogElement>(null);
  const headingId = useId();
  useEffect(() => {
    const element = dialog.current;
    if (element === null || element.open === isOpen) return;
    if (isOpen) element.showModal();
    else element.close();
  }, [isOpen]);
  // A dialog that leaves the page while it is open would not give the focus back.
  useLayoutEffect(() => {
    const element = dialog.current;
    return () => element?.close();
  }, []);
  return (
    <dialog
      ref={dialog}
      className={isWide ? 'dialog wide' : 'dialog'}
      aria-labelledby={headingId}
      onClose={onClose}
      onCancel={(event) => {
        // A file chooser inside the dialog has a cancel event of its own.
        if (event.target !== event.currentTarget) return;
        event.preventDefault();
        onClose();
      }}
    >
      {isOpen ? (
        <>
          <h2 id={headingId}>{title}</h2>
          <div className="dialog-body">{children}</div>
          <footer>
            <button type="button" className="button" onClick={onClose}>
              {closeLabel ?? t('cancel')}
            </button>
            {actions}
          </footer>
        </>
      ) : null}
    </dialog>
  );
}
