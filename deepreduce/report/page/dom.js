// What all parts share: the data, elements made from text alone, and figures as people read them.

const run = JSON.parse(document.getElementById("data").textContent);
const teacher = run.networks.find((network) => network.is_teacher);
const byId = new Map(run.networks.map((network) => [network.id, network]));

/** The cost that the frontier is shown for: ReLUs, or latency or bytes under a preset. */
let axis = run.axes.find((each) => each.key === run.axis);

const isOnFront = (network) => axis.front.includes(network.id);

/** What a network costs by the shown cost; null where that is not known. */
const costOf = (network) => network.costs[axis.key] ?? null;

const $ = (id) => document.getElementById(id);

/** An element with properties and attributes; strings among the children become text, never markup. */
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

/** At most one decimal of K, or two of M: 512, 28.7K, 557.1K, 1.23M. */
function short(count) {
  if (Math.round(count) < 1000) return String(Math.round(count));
  if (count < 999950) return `${Number((count / 1e3).toFixed(1))}K`;
  if (count < 999.5e6) return `${Number((count / 1e6).toFixed(2))}M`;
  return `${Number((count / 1e9).toFixed(2))}G`;
}

/** Three digits with their unit, as the plots and tables of a run have them. */
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

/** A cost on the axis, and in a sentence. */
const shortCost = (cost) => ({ relus: short, latency: shortSeconds, bytes: shortBytes })[axis.name](cost);
const costText = (cost) => (axis.name === "relus" ? counted(cost, "ReLU", "ReLUs") : shortCost(cost));

const percent = (fraction) => (fraction === null ? NOTHING : (100 * fraction).toFixed(2));

/** Why there is no measurement, in a word: "failed" or "dropped"; null for a network that was measured. */
const unmeasured = (network) => (network.failure === null ? null : network.is_dropped ? "dropped" : "failed");

/** How many times fewer ReLUs than the teacher's; null for a network without any. */
const timesFewer = (network) => (network.relu_count ? teacher.relu_count / network.relu_count : null);

/** How many times less than the teacher a network costs, as the frontier is shown; null where that is not known. */
const timesLess = (network) => (costOf(network) && costOf(teacher) ? costOf(teacher) / costOf(network) : null);

/** Percentage points of test accuracy above the teacher's. */
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

/** Whether the details lie above the table instead of beside it. */
const isNarrow = () => !matchMedia("(min-width: 64rem)").matches;

/** Says to a screen reader what changed. */
function announce(text) {
  $("status").textContent = text;
}

/** A text to copy, with the button that does. */
function snippet(name, text, { wrap = false } = {}) {
  const code = el("pre", { class: wrap ? "wrap" : null, tabindex: "0", "aria-label": name }, text);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
    } catch {
      // an older browser, or one that forbids it: leave the text marked for the reader's own keys
      getSelection().selectAllChildren(code);
      button.textContent = "Marked: press Ctrl+C";
      return;
    }
    button.textContent = "Copied";
    announce(`${name} copied`);
    setTimeout(() => (button.textContent = "Copy"), 2000);
  };
  const button = el("button", { type: "button", "aria-label": `Copy: ${name}`, onclick: copy }, "Copy");
  return el("div", { class: "snippet" }, el("div", { class: "head" }, el("span", {}, name), button), code);
}

/** A bar as long as `part` of the greatest value, on a track as long as `of` it. */
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
