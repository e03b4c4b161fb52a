/** What is wrong with a file, after its name, by the code of the error; Node has words of its own for these. */
export const fileTroubles: Readonly<Record<string, string>> = {
  ENOENT: 'is not there',
  EISDIR: 'is a folder, not a file',
  EACCES: 'is not open to this user',
  Z_DATA_ERROR: 'is damaged, or was not packed by gzip',
  Z_BUF_ERROR: 'ends too early: it was cut',
};
