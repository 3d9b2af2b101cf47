// The table of all networks, which can be sorted by each column, selects networks, and downloads as CSV.

const status = (network) => {
  if (network.failure !== null) return unmeasured(network);
  if (network.is_teacher) return isOnFront(network) ? "teacher, frontier" : "teacher";
  return isOnFront(network) ? "frontier" : "";
};

const priced = (network, preset, what) =>
  (preset in network.prices ? total(network.prices[preset][what]) : null);
const known = (text) => (value) => (value === null ? NOTHING : text(value));

const COLUMNS = [
  { name: "Network", value: (n) => n.label },
  { name: "ReLUs", value: (n) => n.relu_count, text: whole },
  { name: "Fewer", value: timesFewer, text: (times) => (times === null ? NOTHING : `${times.toFixed(1)}\u00d7`) },
  { name: "Test %", value: (n) => n.test_accuracy, text: percent },
  { name: "Val. %", value: (n) => n.val_accuracy, text: percent },
  { name: "vs teacher", value: againstTeacher, text: signed },
  { name: "Status", value: status },
  ...run.stages.map((stage) => ({
    name: `${stage} ReLUs`, value: (n) => (n.stages === null ? null : (n.stages[stage] ?? 0)), text: whole,
  })),
  ...run.presets.flatMap(({ name }) => [
    { name: `Latency, ${name}`, value: (n) => priced(n, name, "seconds"), text: known(shortSeconds) },
    { name: `Bytes, ${name}`, value: (n) => priced(n, name, "bytes"), text: known(shortBytes) },
  ]),
  { name: "Churn %", value: (n) => n.churn, text: percent },
  { name: "MACs", value: (n) => n.macs, text: whole },
  { name: "Seconds", value: (n) => n.train_seconds, text: (s) => (s === null ? NOTHING : whole(Math.round(s))) },
  { name: "Plan", value: (n) => n.id, kind: "id" },
];

const isNumber = (column) => column.text !== undefined;

/** Compare numbers by value and texts naturally ("S2" before "S10"); missing values come last in either order. */
function compare(a, b, descending) {
  if (a === null || b === null) return (a === null) - (b === null);
  const order = typeof a === "number" ? a - b : a.localeCompare(b, "en", { numeric: true });
  return descending ? -order : order;
}

class NetworkTable {
  constructor(table, { onSelect }) {
    this.table = table;
    this.onSelect = onSelect;
    this.sorted = { column: COLUMNS[1], descending: true };
    this.frontierOnly = false;
    this.heads = COLUMNS.map((column) => el("th", { scope: "col", class: isNumber(column) ? "number" : null },
      el("button", { type: "button", onclick: () => this.sortBy(column) }, column.name)));
    table.tHead.append(el("tr", {}, ...this.heads));
    this.fill();
  }

  /** Write the rows, which mark the frontier of the shown cost. */
  fill() {
    this.rows = new Map(run.networks.map((network) => [network, this.rowOf(network)]));
    this.arrange();
  }

  rowOf(network) {
    const mark = network.is_teacher ? "teacher" : isOnFront(network) ? "front" : "other";
    const kind = network.failure === null ? `mark ${mark}` : "mark";
    const button = el("button", { type: "button", "aria-pressed": "false" },
      el("span", { class: kind, "aria-hidden": "true" }), network.label);
    const cells = COLUMNS.slice(1).map((column) => {
      const value = column.value(network);
      const kind = isNumber(column) ? "number" : value === "failed" ? "failed" : (column.kind ?? null);
      return el("td", { class: kind }, isNumber(column) ? column.text(value) : value);
    });
    // the mouse can click anywhere in the row, the keyboard its button, whose click also reaches the row
    return el("tr", { "data-network": network.id, onclick: () => this.onSelect(network) },
      el("th", { scope: "row" }, button), ...cells);
  }

  sortBy(column) {
    const again = this.sorted.column === column;
    this.sorted = { column, descending: again && !this.sorted.descending };
    this.arrange();
    announce(`Sorted by ${column.name}, ${this.sorted.descending ? "descending" : "ascending"}`);
  }

  showFrontierOnly(only) {
    this.frontierOnly = only;
    this.arrange();
    announce(`${counted(this.table.tBodies[0].rows.length, "network", "networks")} in the table`);
  }

  arrange() {
    const { column, descending } = this.sorted;
    const shown = run.networks.filter((network) => !this.frontierOnly || isOnFront(network) || network.is_teacher);
    shown.sort((a, b) => compare(column.value(a), column.value(b), descending));
    const focused = document.activeElement;
    this.table.tBodies[0].replaceChildren(...shown.map((network) => this.rows.get(network)));
    if (this.table.contains(focused)) focused.focus();
    COLUMNS.forEach((each, i) => {
      if (each === column) this.heads[i].setAttribute("aria-sort", descending ? "descending" : "ascending");
      else this.heads[i].removeAttribute("aria-sort");
    });
  }

  mark(selected) {
    for (const [network, row] of this.rows) {
      row.toggleAttribute("aria-current", network === selected);
      if (network === selected) row.setAttribute("aria-current", "true");
      row.querySelector("button").setAttribute("aria-pressed", String(network === selected));
    }
  }

  focus(network) {
    this.rows.get(network).querySelector("button").focus();
  }
}

function downloadCsv() {
  const address = URL.createObjectURL(new Blob([run.csv], { type: "text/csv" }));
  el("a", { href: address, download: "candidates.csv" }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10_000);
}
