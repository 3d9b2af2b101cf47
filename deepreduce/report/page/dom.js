// Shared by all parts: the data, elements built from text only, and formatted numbers.

const run = JSON.parse(document.getElementById("data").textContent);
const teacher = run.networks.find((network) => network.is_teacher);
const byId = new Map(run.networks.map((network) => [network.id, network]));

/** The cost axis of the shown frontier: ReLUs, or latency or bytes under a preset. */
let axis = run.axes.find((each) => each.key === run.axis);

const isOnFront = (network) => axis.front.includes(network.id);

/** A network's cost on the shown axis; null if it is unknown. */
const costOf = (network) => network.costs[axis.key] ?? null;

const $ = (id) => document.getElementById(id);

/** Create an element with attributes and listeners; strings among the children become text, never markup. */
function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null));
  return element;
}

const NOTHING = "\u2013";

const whole = (count) => (count === null ? NOTHING : count.toLocaleString("en-US"));

/** Format a count with at most one decimal of K, or two of M: 512, 28.7K, 557.1K, 1.23M. */
function short(count) {
  if (Math.round(count) < 1000) return String(Math.round(count));
  if (count < 999950) return `${Number((count / 1e3).toFixed(1))}K`;
  if (count < 999.5e6) return `${Number((count / 1e6).toFixed(2))}M`;
  return `${Number((count / 1e9).toFixed(2))}G`;
}

/** Format three digits, as the plots and tables of a run do. */
const digits = (value) => (value < 999.5 ? String(Number(value.toPrecision(3))) : whole(Math.round(value)));

function shortSeconds(seconds) {
  if (seconds >= 600) return `${digits(seconds / 60)} min`;
  return seconds >= 0.1 || seconds === 0 ? `${digits(seconds)} s` : `${digits(1000 * seconds)} ms`;
}

function shortBytes(count) {
  for (const [power, unit] of [[1e12, "TB"], [1e9, "GB"], [1e6, "MB"], [1e3, "kB"]]) {
    if (count >= 0.9995 * power) return `${digits(count / power)} ${unit}`;
  }
  return `${Math.round(count)} B`;
}

/** Format a cost for the axis, and for a sentence. */
const shortCost = (cost) => ({ relus: short, latency: shortSeconds, bytes: shortBytes })[axis.name](cost);
const costText = (cost) => (axis.name === "relus" ? counted(cost, "ReLU", "ReLUs") : shortCost(cost));

const percent = (fraction) => (fraction === null ? NOTHING : (100 * fraction).toFixed(2));

/** Why a network has no measurement, "failed" or "dropped"; null if it has one. */
const unmeasured = (network) => (network.failure === null ? null : network.is_dropped ? "dropped" : "failed");

/** The teacher's ReLUs divided by the network's; null for a network without ReLUs. */
const timesFewer = (network) => (network.relu_count ? teacher.relu_count / network.relu_count : null);

/** The teacher's cost divided by the network's, on the shown axis; null if one is 0 or unknown. */
const timesLess = (network) => (costOf(network) && costOf(teacher) ? costOf(teacher) / costOf(network) : null);

/** Test accuracy minus the teacher's, in percentage points; null if it was not measured. */
const againstTeacher = (network) =>
  network.test_accuracy === null ? null : 100 * (network.test_accuracy - teacher.test_accuracy);

function signed(points) {
  if (points === null) return NOTHING;
  const text = Math.abs(points).toFixed(2);
  if (text === "0.00") return "\u00b10.00";
  return `${points < 0 ? "\u2212" : "+"}${text}`;
}

function duration(seconds) {
  if (seconds === null) return NOTHING;
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${seconds.toFixed(0)} s`;
  if (seconds < 7200) return `${(seconds / 60).toFixed(0)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

const counted = (count, one, many) => `${whole(count)} ${count === 1 ? one : many}`;

/** True if the screen is too narrow to show the details next to the table. */
const isNarrow = () => !matchMedia("(min-width: 64rem)").matches;

/** Tell a screen reader what changed. */
function announce(text) {
  $("status").textContent = text;
}

/** Create a text with a button that copies it. */
function snippet(name, text, { wrap = false } = {}) {
  const code = el("pre", { class: wrap ? "wrap" : null, tabindex: "0", "aria-label": name }, text);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // older browsers, and ones that forbid the clipboard: select the text, so that the reader can copy it
      getSelection().selectAllChildren(code);
      button.textContent = "Selected: press Ctrl+C";
      return;
    }
    button.textContent = "Copied";
    announce(`${name} copied`);
    setTimeout(() => (button.textContent = "Copy"), 2000);
  };
  const button = el("button", { type: "button", "aria-label": `Copy: ${name}`, onclick: copy }, "Copy");
  return el("div", { class: "snippet" }, el("div", { class: "head" }, el("span", {}, name), button), code);
}

/** Create a bar of length `part` on a track of length `of`, both fractions of the greatest value. */
function bar(part, of = 0) {
  const width = (share) => {
    const span = el("span");
    span.style.width = `${100 * Math.max(0, Math.min(share, 1))}%`;
    return span;
  };
  const fill = width(part);
  fill.className = "fill";
  return el("span", { class: "track", "aria-hidden": "true" }, width(of), fill);
}

function tableOf(heads, rows, attributes = {}) {
  const head = heads.map(({ name, number, ...rest }) =>
    el("th", { scope: "col", class: number ? "number" : null, ...rest }, name));
  return el("table", attributes, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows));
}
