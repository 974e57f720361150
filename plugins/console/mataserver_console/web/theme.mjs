// The theme: the system's, or the one that this browser was told.
import { cell } from "./cell.mjs";
import { choice } from "./kept.mjs";

export const THEMES = ["system", "light", "dark"];
export const theme = cell(choice.get("theme") ?? "system");

export function setTheme(next) {
  choice.set("theme", next);
  if (next === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  theme.set(next);
}
