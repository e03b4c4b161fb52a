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
  /** The call that does it. */
  readonly action: { readonly isPending: boolean; readonly error: unknown };
  readonly onConfirm: () => void;
}

/** Asks before a change, and shows why it failed. */
export function ConfirmDialog({ children, confirm, isDanger, action, onConfirm, ...dialog }: ConfirmDialogProps) {
  return (
    <Dialog
      {...dialog}
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
