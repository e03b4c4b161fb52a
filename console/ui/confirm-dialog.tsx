import type { ReactNode } from 'react';
import { Confirm } from './confirm.tsx';
import { Dialog } from './dialog.tsx';
import { ErrorNotice } from './feedback.tsx';

export interface ConfirmDialogProps {
  readonly title: string;
  readonly isOpen: boolean;
  readonly onClose: () => void;
  readonly children: ReactNode;
  /** The button that does it. */
  readonly confirm: string;
  readonly isDanger?: boolean;
  /** Replaces the word Cancel. */
  readonly closeLabel?: string;
  /** The call that does it. */
  readonly action: { readonly isPending: boolean; readonly error: unknown; readonly reset?: () => void };
  readonly onConfirm: () => void;
}

/** Asks before a change, and shows why it failed. */
export function ConfirmDialog({
  children,
  confirm,
  isDanger,
  action,
  onConfirm,
  onClose,
  ...dialog
}: ConfirmDialogProps) {
  return (
    <Dialog
      {...dialog}
      onClose={() => {
        // An error belongs to this attempt; the page may still show the outcome of a success.
        if (action.error !== null) action.reset?.();
        onClose();
      }}
      actions={
        <Confirm
          className={isDanger ? 'button danger' : 'button primary'}
          isBusy={action.isPending}
          onClick={onConfirm}
        >
          {confirm}
        </Confirm>
      }
    >
      {children}
      {action.error === null ? null : <ErrorNotice error={action.error} />}
    </Dialog>
  );
}
