// What time it is at the server: the clock of who looks may be wrong, and the times that the server tells are by its own.
const NEAR = 5000;  // milliseconds: the header tells whole seconds, and an answer that was asked for early waits until it is read
let ahead = 0;

/** Note the time of an answer that has just come, by its header `Date`. @param {string | null} date */
export function note(date) {
  const off = Date.parse(date ?? "") - Date.now();
  if (!Number.isNaN(off)) ahead = Math.abs(off) < NEAR ? 0 : off;
}

/** Milliseconds since 1970, by the server's clock. */
export const now = () => Date.now() + ahead;
