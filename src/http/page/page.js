"use strict";
// Shows the pool's counts, every 15 s. Relative, so that it works under /pools/<namespace>/<name>/ too.
const note = document.getElementById("note");
const counts = document.getElementById("counts");

async function refresh() {
  try {
    const response = await fetch("api/pool/counts", { cache: "no-store" });
    const body = await response.json();
    if (!response.ok) throw new Error(body.error || String(response.status));
    for (const cell of counts.querySelectorAll("[data-key]")) cell.textContent = String(body[cell.dataset.key]);
    counts.hidden = false;
    note.textContent = "";
  } catch (error) {
    note.textContent = "Counts are not available: " + error.message;
  }
}

refresh();
setInterval(refresh, 15000);
