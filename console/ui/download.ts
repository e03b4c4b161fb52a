/** Offers CSV for download. The mark at its start makes spreadsheets read it as UTF-8. */
export function downloadCsv(name: string, lines: readonly string[]): void {
  const url = URL.createObjectURL(new Blob(['\ufeff', ...lines], { type: 'text/csv;charset=utf-8' }));
  const link = document.createElement('a');
  link.href = url;
  link.download = name;
  link.click();
  // The browser reads it after the click; a minute is enough for that.
  setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
