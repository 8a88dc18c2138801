for (const th of document.querySelectorAll("th[data-sort]")) th.onclick = () => {
  const body = th.closest("table").tBodies[0], i = th.cellIndex;
  const down = th.dataset.sort = th.dataset.sort === "up" ? "down" : "up";
  const value = row => row.cells[i].dataset.order ?? row.cells[i].textContent;
  const compare = (a, b) => {
    const [x, y] = [value(a), value(b)];
    if ((x === "") !== (y === "")) return x === "" ? 1 : -1;  // what is unknown comes last
    const order = isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y;
    return down === "up" ? order : -order;
  };
  body.append(...[...body.rows].sort(compare));
};
