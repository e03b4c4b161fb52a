import type { ReactNode } from 'react';

export interface ConfirmProps {
  readonly className: string;
  readonly isBusy: boolean;
  readonly onClick: () => void;
  readonly children: ReactNode;
}

/** A button that does something once at a time. It stays focusable while it is busy. */
export function Confirm({ className, isBusy, onClick, children }: ConfirmProps) {
  return (
    <button
      type="button"
      className={className}
      aria-disabled={isBusy}
      onClick={() => {
        if (!isBusy) onClick();
      }}
    >
      {children}
    </button>
  );
}
