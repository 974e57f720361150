// Before the first paint, so that a chosen theme does not flash.
"use strict";
try {
  const theme = localStorage.getItem("mataserver.theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch { /* storage is closed: the system's theme */ }
