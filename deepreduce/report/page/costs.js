// The seconds and bytes of one image by their causes, as stacked bars.

const LAYERS = ["ReLU", "linear", "other"];
const CAUSES = ["computing", "sending", "waiting"];

const total = (parts) => parts.reduce((sum, part) => sum + part, 0);

/** Create a bar of parts, of length sum(parts) / most, with a text for readers who can't see the colours. */
function stack(parts, names, most, text) {
  const description = names.map((name, i) => `${name} ${text(parts[i])}`).join(", ");
  const spans = names.map((name, i) => {
    const span = el("span", { class: `part ${name}` });
    span.style.width = `${(100 * Math.max(parts[i], 0)) / (most || 1)}%`;
    return span;
  });
  return el("td", { class: "costs", title: description },
    el("span", { class: "stack", "aria-hidden": "true" }, ...spans),
    el("span", { class: "sum" }, text(total(parts))), el("span", { class: "unseen" }, ` (${description})`));
}

class CostTable {
  constructor(body, choice) {
    this.body = body;
    this.choice = choice;
    choice.append(...run.presets.map(({ name, basis }) => el("option", { value: name }, basis)));
  }

  /** Show the networks of the frontier, the teacher and the selected network, slowest first. */
  draw(selected) {
    const preset = this.choice.value;
    const shown = run.networks
      .filter((n) => preset in n.prices && (isOnFront(n) || n.is_teacher || n === selected))
      .sort((a, b) => total(b.prices[preset].seconds) - total(a.prices[preset].seconds));
    const prices = shown.map((network) => network.prices[preset]);
    const [seconds, bytes] = ["seconds", "bytes"].map((name) => Math.max(...prices.map((p) => total(p[name]))));
    const rows = shown.map((network, i) => el("tr", { "aria-current": network === selected ? "true" : null },
      el("th", { scope: "row" }, network.label),
      stack(prices[i].seconds, LAYERS, seconds, shortSeconds),
      stack(prices[i].causes, CAUSES, seconds, shortSeconds),
      stack(prices[i].bytes, LAYERS, bytes, shortBytes),
      el("td", { class: "number" }, whole(Math.round(prices[i].rounds))),
      el("td", { class: "number" }, shortSeconds(prices[i].offline_seconds))));
    const heads = [
      { name: "Network" }, { name: "Latency by layers" }, { name: "Latency by cause" },
      { name: "Bytes by layers, offline too" }, { name: "Rounds", number: true },
      { name: "Offline", number: true },
    ];
    this.body.replaceChildren(tableOf(heads, rows, { id: "costs-table" }));
  }
}
