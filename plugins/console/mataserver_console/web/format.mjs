// Numbers with their units.
import { now } from "./server_time.mjs";

export const round = (value, digits = 2) => Number(value).toFixed(digits);

/** A size of `mb` megabytes. */
export function size(mb) {
  if (mb === null || mb === undefined) return "–";
  if (mb >= 1000) return `${round(mb / 1000, 1)} GB`;
  return mb >= 10 || mb === 0 ? `${Math.round(mb)} MB` : `${round(mb, 1)} MB`;
}

export const bytes = (count) => (count < 1e6 ? `${Math.max(count ? 1 : 0, Math.round(count / 1e3))} kB` : size(count / 1e6));

export function ms(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (value >= 999.5) return `${round(value / 1000, 1)} s`;
  return value >= 10 || value === 0 ? `${Math.round(value)} ms` : `${round(value, 1)} ms`;
}

/** Seconds as a length of time. */
export function long(given) {
  const seconds = Math.round(given);
  if (seconds < 60) return `${seconds} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
  if (seconds < 172_800) return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
  return `${Math.floor(seconds / 86_400)} days`;
}

/** How long ago a time of Unix seconds is. */
export function ago(time) {
  if (!time) return "never";
  const seconds = Math.max(0, now() / 1000 - time);
  if (seconds < 3) return "now";
  if (seconds < 60) return `${Math.floor(seconds)} s ago`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min ago`;
  if (seconds < 86_400) return `${Math.floor(seconds / 3600)} h ago`;
  if (seconds < 172_800) return "yesterday";
  return `${Math.floor(seconds / 86_400)} days ago`;
}

const day = (time) => new Date(time).toLocaleDateString([], { day: "numeric", month: "short", year: "numeric" });
/** A time of day; with its date when that is not today's. */
export function clock(time) {
  const own = new Date(time).toLocaleTimeString([], { hour12: false });
  return day(time) === day(now()) ? own : `${day(time)}, ${own}`;
}
/** A time of day with this browser's time zone: the server, and who else reads of it, may be in another one. */
export function zoned(time) {
  const parts = new Intl.DateTimeFormat([], { timeZoneName: "short" }).formatToParts(time);
  return `${clock(time)} ${parts.find((each) => each.type === "timeZoneName")?.value ?? ""}`.trimEnd();
}
export const count = (number, one, many = `${one}s`) => `${number.toLocaleString("en")} ${number === 1 ? one : many}`;

/** The owner of a model's name and the rest. */
export function parted(name) {
  const at = name.lastIndexOf("/");
  return at < 0 ? ["", name] : [name.slice(0, at + 1), name.slice(at + 1)];
}
