// Sorts the tables whose headers are buttons; opens what is folded for printing. Loads nothing.
"use strict";
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const header = button.closest("th"), table = header.closest("table");
    const column = [...header.parentNode.children].indexOf(header);
    const numeric = header.classList.contains("number");
    const first = numeric ? "descending" : "ascending";
    const second = numeric ? "ascending" : "descending";
    const order = header.getAttribute("aria-sort") === first ? second : first;
    for (const other of header.parentNode.children) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", order);
    const key = (row) => row.children[column].dataset.sort || "";
    const way = order === "ascending" ? 1 : -1;
    for (const body of table.tBodies) {  // each heading keeps its rows
      const rows = [...body.rows].filter((row) => !row.classList.contains("heading"));
      rows.sort((a, b) => {
        const [x, y] = [key(a), key(b)];
        if (!x || !y) return !x && !y ? 0 : x ? -1 : 1;  // what has no figure stays below, either way
        return way * (numeric ? Number(x) - Number(y) : x.localeCompare(y, "en"));
      });
      body.append(...rows);
    }
  });
}
const folded = () => document.querySelectorAll("details:not([open])");
let opened = [];
addEventListener("beforeprint", () => { opened = [...folded()]; for (const one of opened) one.open = true; });
addEventListener("afterprint", () => { for (const one of opened) one.open = false; });
