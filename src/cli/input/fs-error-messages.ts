/** Descriptions of file errors by error code, to be printed after the file's name. */
export const fsErrorMessages: Readonly<Record<string, string>> = {
  ENOENT: 'does not exist',
  EISDIR: 'is a folder, not a file',
  EACCES: 'is not accessible to this user',
  Z_DATA_ERROR: 'is damaged or not compressed by gzip',
  Z_BUF_ERROR: 'is truncated',
};
